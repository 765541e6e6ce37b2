"""Transformers that compute only invertible functions, whatever the prompt (Wang et al. 2023, section 4).

`model` (random stacks, running them), `verdict` (proved invertible on a ball, or which block is in the way), `inverse` (the preimage by Banach
iteration), `floor` (two inputs with one target), `rescaled` (a model made invertible), `slopes` (the largest slope found, beside the bound).
"""
