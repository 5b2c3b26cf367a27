from envoi_trace_core.hookspecs import hookimpl


@hookimpl
def envoi_trace_agents(settings):
    return ()
