"""pass@k, for Python, and as a macro for SQL."""

# The same estimate as `pass_at_k` below; a test compares the two.
MACRO = """
CREATE MACRO pass_at(n, c, k) AS
  CASE WHEN k BETWEEN 1 AND n THEN 1 - coalesce(list_product(list_transform(range(n - c + 1, n + 1), lambda i: 1 - k / i)), 1) END
"""


def pass_at_k(n: int, c: int, k: int) -> float | None:
    """The unbiased estimate of the chance that one of k samples passes, given that c of n did.

    1 - C(n-c, k) / C(n, k), as a product so that nothing overflows (Chen et al. 2021, "Evaluating Large Language Models Trained on
    Code"). None when fewer than k samples were drawn. Raises ValueError for impossible counts.
    """
    if not 0 <= c <= n or k < 1:
        raise ValueError(f"pass@{k} of {c} passes in {n} samples")
    if n < k:
        return None
    missed = 1.0
    for i in range(n - c + 1, n + 1):
        missed *= 1 - k / i
    return 1 - missed
