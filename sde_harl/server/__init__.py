"""Rank 0's side of the wire: `ExecutorPool` in executor_pool.py, and its parts.

before the run    settings, assignment, frame_sizes; pool_parts connects the parts below
a decision        questioner: sends by sender, waits by answer_waiter
an answer         receiver: checks it, on-device actions by action_check; writes it into a slot
a late answer     membership: what each executor still owes, and who is absent
no answer         slot: an older latent, or fallback_actions
a new model       publisher
a report          report_collector, from reports and decision_log
emulated radio    link_emulator
"""
