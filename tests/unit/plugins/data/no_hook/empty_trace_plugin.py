def envoi_trace_agents():
    """Without @hookimpl."""
    return ()
