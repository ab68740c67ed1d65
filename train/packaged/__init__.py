"""Networks that people use, as public packages ship them: read, compared with their own runtime, made small, judged."""
