"""The review as code: its tables, equations and figures one to one, slow and readable, in numpy's float64 (torch's,
where a gradient is a part of the formula: Transformer-XL, and the deeper memories of Titans).

Symbols and layout are those of *Formal Algorithms for Transformers* (Phuong and Hutter 2022): one sequence at a time,
and the columns of a matrix are positions, X in R^{d x l}. Tokens and positions count from 0 here, from 1 in the papers.
Each function is the oracle of the fast code that `diptych paper` names beside it; the package itself never calls it.
Where the review's print is wrong, the mathematics here is right, and docs/review.md says what was mended.
"""
