"""The command line: prefixc compile, verify, explain, plot, suite.

Exit codes: 0 proved, 1 refuted, 2 undecided, 3 bad input, 130 interrupted. `plot` and `explain` end with 0 when they did their work:
they show what a file says, and prove nothing. Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from verify import Certificate, Claim

__all__ = ["main"]

PROVED, REFUTED, UNDECIDED, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 3, 130, 141
_EXIT = {"proved": PROVED, "refuted": REFUTED, "undecided": UNDECIDED}
_FIGURES = (".png", ".svg", ".pdf")

app = typer.Typer(
    name="prefixc",
    help="Compile a function into an attention prefix, and prove its sup error.",
    epilog="Exit codes: 0 proved, 1 refuted, 2 undecided, 3 bad input, 130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="A compiled prefix, as `prefixc compile -o` writes it, or a statement, as `.save` does."
    ),
]


class _Refused(ValueError):
    """Bad input that only the command line can see."""


class _Interrupted(Exception):
    """Ctrl-C in a command that had written something; the message says what."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line (by default the process's) and return its exit code. Never lets an exception through."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=None if args is None else list(args), prog_name="prefixc", standalone_mode=False)
        sys.stdout.flush()
        code = code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has gone: `prefixc explain FILE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        return _failed(error)
    if code == INTERRUPTED:  # raised here, or already turned into an exit code by typer, depending on its version
        return _fail("interrupted; nothing was written", INTERRUPTED)
    return code


def _failed(error: Exception) -> int:
    """One clear message for whatever went wrong, and the exit code for it."""
    from constructions.errors import CompileError, NotProvedError
    from verify import ArtefactError

    if isinstance(error, NotProvedError):
        return _fail(str(error), _EXIT.get(str(error.status), UNDECIDED))
    if isinstance(error, _Interrupted):
        return _fail(str(error), INTERRUPTED)
    if isinstance(error, (CompileError, ArtefactError, _Refused)):
        return _fail(str(error), BAD_INPUT)
    if hasattr(error, "format_message"):  # a usage error, of typer itself or of the click it builds on
        return _fail(_usage(error), BAD_INPUT)
    if isinstance(error, (MemoryError, OSError)):
        return _fail(f"{error or 'out of memory'}. Nothing was decided and nothing written.", UNDECIDED)
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = "" if where is None else f" ({Path(where.tb_frame.f_code.co_filename).name}, line {where.tb_lineno})"
    kind = type(error).__name__
    return _fail(f"a defect of this program, nothing was decided: {kind}: {error}{place}. Please report it.", UNDECIDED)


def _fail(message: str, code: int) -> int:
    typer.echo(f"prefixc: {message}", err=True)
    return code


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "prefixc"
    words = " ".join(str(error.format_message()).split()).rstrip(".") or "a command is missing"
    if "No such option" in words and path.endswith("compile"):
        words += ". Put a formula that begins with a minus in brackets, (-x), or after --"
    return f"{words}. See `{path} --help`."


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"prefixc {version('prefix-compiler')}")
        except PackageNotFoundError:
            typer.echo("prefixc (not installed as a package)")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compile a function into an attention prefix, and prove its sup error."""


@app.command("compile")
def _compile(
    formula: Annotated[str, typer.Argument(metavar="FORMULA", help='For example "sin(3*x)" or "[cos(x), sin(x)*y]".')],
    eps: Annotated[float, typer.Option("--eps", help="The sup error to prove, rounding included.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write the compiled prefix.")],
    domain: Annotated[
        list[str] | None,
        typer.Option(
            "--domain",
            help='"x=-1:1", repeated or "x=-1:1,y=0:1"; by default [0, 1] for every variable. "sphere:2" is S^2 in x, y, z, '
            'and "sphere:2:u,v,w" names its coordinates.',
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method", help="auto, minimax, bernstein, laplacian or covering; on a sphere split, core or classical."
        ),
    ] = "auto",
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", help="Longest sequence a classical head is proved for.")
    ] = 64,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Refuse what would need more tokens.")] = 20_000,
    effort: Annotated[float, typer.Option("--effort", help="Seconds to spend on a shorter prefix.")] = 0.0,
    dtype: Annotated[
        str, typer.Option("--dtype", help="The float format it is to run in: float64, float32 or bfloat16.")
    ] = "float64",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
) -> int:
    """Compile FORMULA, prove it, and write the result."""
    _writable(out)
    from constructions.compile import compile_prefix
    from constructions.parse import parse_domain, parse_expression

    where = parse_domain(",".join(domain)) if domain else None
    f = parse_expression(formula)
    compiled = compile_prefix(
        f,
        eps,
        where,
        method=method,
        max_tokens=max_tokens,
        effort=effort,
        sequence_length=sequence_length,
        dtype=dtype,
        progress=False if quiet else None,
    )
    compiled.save(out)
    if not quiet:
        typer.echo(repr(compiled))
        if dtype != "float64":
            typer.echo(f"  {dtype:<13}{_in_format(compiled.claim, dtype)}")
        typer.echo(f"  {'written to':<13}{out}")
    return PROVED


def _in_format(claim: Claim, dtype: str) -> Certificate:
    """The certificate of the claim executed in a format, parameters rounded to it."""
    from verify.formats import FormatError, prove_in_format

    try:
        return prove_in_format(claim, dtype).certificate
    except FormatError as error:
        raise _Refused(f"--dtype {dtype}: {error}") from error


@app.command("verify")
def _verify(
    file: File,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="smollm2 or minilm: whose layer a statement about a pretrained model is for."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", help="The float format that a compiled prefix is to run in: float64, float32 or bfloat16."
        ),
    ] = "float64",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no certificate: the exit code says it all.")
    ] = False,
) -> int:
    """Prove the claim in FILE again, from the file alone (a statement about a pretrained model: from the file and its weights).

    What the file says about itself plays no part.
    """
    from constructions.progress import reporting
    from verify import check, holds_statement, load

    if holds_statement(file):
        if dtype != "float64":
            raise _Refused(
                f"--dtype {dtype}: {file} holds a statement, which names its own float format. Leave it out."
            )
        return _verify_statement(file, weights, quiet)
    if weights is not None:
        raise _Refused(f"--weights {weights}: {file} holds a compiled prefix, which needs none. Leave it out.")
    if dtype != "float64":
        found = _in_format(load(file).claim, dtype)
        if not quiet:
            typer.echo("\n".join(_certificate_lines(found)))
        return _EXIT[str(found.status)]
    stored = load(file).certificate
    with reporting(False if quiet else None) as report:
        fresh = check(file, progress=lambda done, words: report(done, f"{words} {file.name}"))
    if not quiet:
        typer.echo("\n".join(_certificate_lines(fresh)))
        if stored.to_json() != fresh.to_json():
            typer.echo(f"the file claimed  {stored!r}")
    return _EXIT[str(fresh.status)]


def _verify_statement(file: Path, weights: str | None, quiet: bool) -> int:
    """A statement is decided again."""
    from constructions.stated import verdict_lines
    from verify import check_statement, load_statement

    stated = load_statement(file)
    fresh = check_statement(file, **({} if weights is None else {"weights": _weights(weights, stated.statement.kind)}))
    if not quiet:
        typer.echo("\n".join(verdict_lines(stated, fresh)))
        if stated.verdict.to_json() != fresh.to_json():
            typer.echo(f"the file claimed  {stated.verdict!r}")
    return _EXIT[str(fresh.status)]


def _weights(name: str, kind: str) -> Any:
    """The first layer of a model whose weights a package ships."""
    from constructions.pretrained import minilm, smollm

    models = {"smollm2": smollm, "minilm": minilm}
    if name not in models or not kind.startswith("token-"):
        raise _Refused(
            f"--weights {name}: expected {' or '.join(models)}, for a statement about the first layer of a pretrained model; this one is of kind {kind!r}."
        )
    try:
        return models[name].first_layer()
    except ImportError as error:
        raise _Refused(str(error)) from error


def _certificate_lines(cert: Certificate) -> list[str]:
    words = str(cert.status).upper()
    if cert.proved and cert.conditional:
        words += ", ON CONDITION of the declared Lipschitz constant"
    if cert.proved and cert.exceptional:
        words += f" OUTSIDE A SET of relative measure at most {cert.exceptional!r}"
    lines = [
        f"status            {words}",
        f"eps               {cert.eps!r}",
        f"sup error         at least {cert.error_lower!r}, at most {cert.error_upper!r}",
        "of which rounding included, not told apart"
        if cert.rounding > cert.error_upper
        else f"of which rounding at most {cert.rounding!r}",
    ]
    if cert.witness is not None:
        lines.append(f"largest found at  ({', '.join(repr(w) for w in cert.witness)})")
    if cert.lp is not None:
        lines.append(
            f"L^{cert.lp[0]:g} error         at most {cert.lp[1]!r}, over the whole domain (uniform probability measure)"
        )
    if cert.route:
        lines.append(f"route             {cert.route}")
    if cert.reason:
        lines.append(f"reason            {cert.reason}")
    lines.append(f"boxes             {cert.boxes}")
    lines += [f"assumes           {a}" for a in cert.assumptions]
    return lines if cert.proved else [*lines, f"next              {cert.advice}"]


@app.command("explain")
def _explain(file: File) -> int:
    """Print the proof in FILE with its numbers, as they are stored."""
    from constructions.compiled import load
    from constructions.stated import explained
    from verify import holds_statement, load_statement

    words = explained(load_statement(file)) if holds_statement(file) else load(file).explain()
    typer.echo(f"As stored in {file}. Nothing was proved again: `prefixc verify {file}` does that.\n")
    typer.echo(words)
    return 0


@app.command("plot")
def _plot(
    file: File,
    out: Annotated[Path, typer.Option("-o", "--out", help="Picture to write: .png, .svg or .pdf.")],
    kind: Annotated[
        str, typer.Option("--kind", help="fit, error, tokens, attention, convergence, or on a sphere bound.")
    ] = "fit",
    eps: Annotated[
        list[float] | None, typer.Option("--eps", help="For convergence: an error to compile for, repeated.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> int:
    """Draw what is in FILE, as it is stored."""
    _writable(out)
    if out.suffix.lower() not in _FIGURES:
        raise _Refused(
            f"-o {out}: cannot be written as {out.suffix or 'a file without an ending'}. Use {', '.join(_FIGURES)}."
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise _Refused("plotting needs matplotlib: pip install 'prefix-compiler[plot]'") from error
    from constructions.compiled import load
    from constructions.plots import CIRCUIT_KINDS, SPHERE_KINDS, plot
    from constructions.plots.style import dressed
    from verify import holds_statement
    from verify.artefact import write_whole

    if eps and kind != "convergence":
        raise _Refused("--eps belongs to --kind convergence; the other pictures show the one that is in the file.")
    kinds = list(dict.fromkeys([*SPHERE_KINDS, *CIRCUIT_KINDS]))
    if kind not in kinds:
        raise _Refused(f"--kind {kind!r} is unknown. Choose among: {', '.join(kinds)}.")
    if holds_statement(file):
        raise _Refused(f"{file}: holds a statement, and the pictures are of compiled prefixes. `prefixc explain` it.")
    compiled = load(file)
    figure = Figure(figsize=(7.2, 4.6), layout="constrained", facecolor="white")
    options: dict[str, Any] = (
        {"progress": False if quiet else None, "eps": eps or None} if kind == "convergence" else {}
    )
    try:
        dressed(plot(compiled, kind, figure.add_subplot(), **options), own=True)
    except ValueError as error:  # such as a convergence plot of a black box, whose function the file does not hold
        raise _Refused(f"{file}: {error}") from error
    data = io.BytesIO()
    figure.savefig(data, format=out.suffix.lower().removeprefix("."), dpi=150)
    write_whole(out, data.getvalue())
    return 0


@app.command("suite")
def _suite(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help='JSON: [{"name": ..., "expression": ..., "domain": {"x": [lo, hi]}}].'),
    ],
    eps_rel: Annotated[
        float, typer.Option("--eps-rel", help="The sup error to prove, relative to each formula's range.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the results; by default FILE.results, without .json.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="How many processes compile side by side.")] = 1,
    method: Annotated[str, typer.Option("--method", help="auto, or one of those of `prefixc compile`.")] = "auto",
    time_limit: Annotated[
        float, typer.Option("--time-limit", help="Seconds to search for each formula's prefix.")
    ] = 120.0,
    dtype: Annotated[
        str, typer.Option("--dtype", help="The float format to compile for: float64, float32 or bfloat16.")
    ] = "float64",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
) -> int:
    """Compile and prove every formula in FILE, and go on after a failure. Run again, it goes on where it stopped.

    Exit code 0 if all are proved, 2 if not.
    """
    from contextlib import nullcontext

    from rich.console import Console

    from constructions.suite import WorkerPool, read_entries, run_suite

    entries = read_entries(file)
    folder = file.with_name(f"{file.name.removesuffix('.json')}.results") if out is None else out
    try:
        with nullcontext() if jobs == 1 else WorkerPool(min(jobs, len(entries))) as pool:
            result = run_suite(
                entries,
                eps_rel=eps_rel,
                method=method,
                executor=pool,
                out=folder,
                progress=False if quiet else None,
                time_limit=time_limit,
                dtype=dtype,
            )
    except KeyboardInterrupt as error:
        raise _Interrupted(
            f"interrupted; what was finished is in {folder}. The same command goes on where this one stopped."
        ) from error
    if not quiet:
        Console(width=None if sys.stdout.isatty() else 200).print(result.table())
        typer.echo(f"written to {folder}")
    return PROVED if result.all_proved else UNDECIDED


def _writable(out: Path) -> None:
    """Refuse a place that cannot be written before any work is done. Raises _Refused."""
    if out.is_dir():
        raise _Refused(f"-o {out}: is a folder. Give the name of a file in it.")
    if not out.parent.is_dir():
        raise _Refused(f"-o {out}: there is no folder {out.parent}. Create it first.")
    if not os.access(out.parent, os.W_OK):
        raise _Refused(f"-o {out}: the folder {out.parent} is not writable.")
