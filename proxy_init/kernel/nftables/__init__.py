"""nf_tables, natively: what is there, how the kernel is asked and told, and in which order.

expressions.py  what a rule of nf_tables is made of, as bytes
x_tables.py     the bytes that iptables-nft leaves in such rules
codec.py        one rule of the model in expressions, and back
names.py        which tables there are
snapshot.py     all of nf_tables at one generation, and what it means to each family
batches.py      from a snapshot to what is wanted: the messages of one transaction
bridge.py       from one backend with TPROXY to the other
trials.py       what this kernel lacks
tables.py       the connection: reading, and one transaction after the other

Where rules stand, and both families in one table, is rules/inet_tables.py; a run's steps are
kernel/nft_steps.py. Only tables.py, names.py and trials.py speak to the kernel.
"""
