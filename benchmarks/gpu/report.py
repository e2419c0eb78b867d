"""The results of the GPU check as Markdown tables: `python -m benchmarks.gpu.report gpu.json`."""
def render(results): return ""
