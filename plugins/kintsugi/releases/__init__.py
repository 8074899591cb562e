"""Releases: what the fleet runs, as one immutable unit with a digest; how it is rolled out, watched and rolled back.

* ``content``   what belongs to a release, and its digest (pure)
* ``archive``   releases on disk and in S3: built, opened, never overwritten
* ``rollout``   which node next, when to stop, what to bring back (pure)
* ``in_force``  which release a node runs, and the last known-good one: what recovery asks
* ``deploy``    the steps of the DAG ``deploy_release``; ``subgraph`` wires them
* ``steady``    the steady state that a roll-out needs before and after every node
* ``drift``     what is on a node's disk against what its release says
* ``trials``    three bad releases on the running fleet (``make release-trials``)
"""
