from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.specs import NoOptions, StorageSpec


@hookimpl
def envoi_trace_sandboxs():
    return ()


@hookimpl
def envoi_trace_storages():
    yield StorageSpec(name="novel", summary="It works", options=NoOptions, create=print)
