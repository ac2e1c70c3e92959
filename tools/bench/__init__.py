"""What the benchmarks in tools/ share; `python tools/bench_x.py` finds it because it lies beside the script."""
