"""The test suite; a package, so that the benchmarks share its reference and its case table."""
