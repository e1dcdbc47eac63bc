"""The only code that touches a model in training. How a sampled step flows through it:

`watch` (the public context manager) owns an `engine.Probe`. The probe counts optimizer steps; when the
`schedule` says that a step is to be sampled it opens a window: `intercept` routes every module call of the
process through the probe, and `sites` names what is called, measures each output (`observation`) and hooks
its gradient. When the optimizer is about to step, `parameters` copies the weights; when it has stepped, the
observations and the parameters become one `records.Reading`, which goes to a sink (a list, or the writer of
the store), and the window is closed: patches, hooks and handles are gone until the next one.
"""
