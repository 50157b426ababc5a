"""The hot loops of tokenization, compiled by numba at their first use and kept on the disk.

They know arrays of numbers only; what the numbers mean to a user is decided by the modules above.
"""
