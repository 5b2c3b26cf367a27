import attrs

from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.specs import NoOptions, StorageSpec


@attrs.frozen
class Demanding:
    bucket: str


@attrs.frozen
class Exotic:
    size: complex = 1j


@hookimpl
def envoi_trace_storages():
    yield "a text"
    yield StorageSpec(name="demanding", summary="", options=Demanding, create=print)
    yield StorageSpec(name="exotic", summary="", options=Exotic, create=print)
    yield StorageSpec(name="a name", summary="", options=NoOptions, create=print)
    yield StorageSpec(name="plain", summary="", options=dict, create=print)
    yield StorageSpec(name="sound", summary="", options=NoOptions, create=print)


@hookimpl
def envoi_trace_agents():
    return None
