"""Worker processes: how they are started, what is sent to them, and what becomes of the work of one that dies.

Nothing here knows pipelines. `genscale.pipelines.worker` says what a worker does with a piece of work;
`genscale.engine.spread` says which work there is.
"""
