"""python -m constructions: the same as prefixc."""

import sys

from constructions.cli import main

if __name__ == "__main__":
    sys.exit(main())
