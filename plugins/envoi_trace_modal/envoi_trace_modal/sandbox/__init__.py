"""The `modal` sandbox.

`spec` and `options` are light; the rest imports Modal's SDK when it is used. `creating` makes a sandbox of a
`recipe`, finds it again and lists what is left; `sandbox` is what the core sees, on `commands`, whose ends are told
apart by `marks`; `calls` bounds every call, and `failures` turns the SDK's errors into ours.
"""
