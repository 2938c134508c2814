"""From rules to flags: which flags make the rules that a network namespace holds. Pure.

held.py         what is there: the tables of one kind, and the routing
witnesses/      what each rule says about each setting
difference.py   how rules that are there differ from those that flags make
words.py        from a Config to the words of a command line
infer.py        the flags whose rules differ least
"""
