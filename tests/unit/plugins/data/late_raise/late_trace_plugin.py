from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.specs import NoOptions, StorageSpec


@hookimpl
def envoi_trace_storages():
    yield StorageSpec(name="late-store", summary="Given before the failure", options=NoOptions, create=print)
    raise RuntimeError("too late")
