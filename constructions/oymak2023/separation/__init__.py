"""Separation: where softmax prompt-attention classifies all of the data, proved, and its rivals provably cannot (Oymak et al. 2023, section 3).

`compile` (the prompt of finite temperature with a proved margin), `temperature` (how cold it has to be), `accuracy` (the best accuracy of a rival over all
weights, proved), `training` and `samples` (what optimised weights reach), `phases` (both over zeta, delta_q and delta_w).
"""
