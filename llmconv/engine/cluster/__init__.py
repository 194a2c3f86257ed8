"""Tasks on other machines, by Dask (`distributed`). The graph, its state, keys, cache and outputs stay with the engine.

    Build
      Cluster                  the workers that there are; who of them is admitted (cluster.py)
        admission.examine        what a worker is and sees, asked of it
        Fleet                    which task starts next, and on which worker, by cores and memory
        Attempt                  one task on one worker, in a thread: send, wait, take the outputs, put them in place
          host.run                 there: the task in a worker process of the engine, in a folder of its own

Everything travels as JSON and bytes. distributed is imported when a cluster is asked for, and not before.
"""
