"""How prompts come in from files: bytes → lines → rows → the table.

`lines` cuts, `rows`, `template` and `cells` read one line each and are pure, `formats` puts them together for a file,
`naming` gives ids to rows that bring none, `storing` writes what they found, a thousand rows per transaction.
"""
