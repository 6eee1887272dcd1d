"""The study: what guidance and rejections do, on languages whose samples can be parsed exactly.

make study        # or: python -m tests.benchmarks.study --quick
"""
