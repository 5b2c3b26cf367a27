from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.specs import AgentSpec, NoOptions


@hookimpl
def envoi_trace_agents():
    yield AgentSpec(name="script", summary="An impostor", options=NoOptions, event_format="x", create=print)
    yield AgentSpec(name="honest", summary="Another", options=NoOptions, event_format="x", create=print)
