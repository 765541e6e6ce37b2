"""Petrov, Torr and Bibi 2024, "Prompting a Pretrained Transformer Can Be a Universal Approximator" (arXiv 2402.14753).

The heads on S^m: `core`, `split`, `classical`, one file per theorem; what they share is in `net_head` (covering nets), `smooth`, `circle`,
`sphere`, `smooth_head` and `values` (fitted values) and `deconvolution`. Lemmas: `smoothing` (the von Mises-Fisher kernel), `nets` with
`icosahedral`, `polytopes`, `relaxation` (coverings) and `equal_area` (partitions). Bounds of the length: `jackson`. Sequences:
`kolmogorov` (the code), `sequence` (T + 2 layers), `obstruction` (why not everywhere), `shifted` and `two_layer` (everywhere).
"""
