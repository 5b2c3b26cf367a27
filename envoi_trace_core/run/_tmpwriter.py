class TraceWriter:
    def __init__(self, **k): pass
    async def __aenter__(self): return self
    async def __aexit__(self,*a): pass
    def submit(self): pass
    async def flush(self, t): pass
