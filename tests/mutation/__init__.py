"""Mutation check: small bugs made by the hundred in copies of the kernels, each of which the tests must find.

``python -m tests.mutation cpu`` and ``python -m tests.mutation cuda``; see ``__main__``.
"""
