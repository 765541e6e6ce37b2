"""Prompts against low-rank updates (Wang et al. 2023, section 5; the argument here is by the rank of what a prompt adds).

`layer` (one attention layer), `dataset` (what a rank-1 update of keys, queries or values generates), `prompts` (the best prompt of N tokens, and the
one token that imitates an update of the values), `floor` (the certified floor), `tuned` (prompts found by training), `table` (numbers of parameters).
"""
