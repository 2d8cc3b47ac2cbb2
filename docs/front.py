"What the front page shows that is computed: one wrong chain, checked by `verify`, and the scorecard of the stored findings"
from reasonlab import verify
from reasonlab.lab.report import fragment
from reasonlab.lab.scorecard import lead, scorecard, to_html

QUESTION = """A bakery bakes 48 rolls, packs them in bags of 6 and sells each bag for 3 euros. \
Two bags tear open and cannot be sold. How much does it earn?"""
STEPS = [
    "48 rolls in bags of 6 make 48 / 6 = 8 bags.",
    "Two of them tear, so 8 - 2 = 6 bags are sold.",
    "Each bag costs 3 euros: 6 × 3 = 21 euros.",
    "So the bakery earns 21 euros.",
]


def chain():
    return fragment(dict(verify(QUESTION, STEPS), id="The bakery", question=QUESTION, answer=STEPS))


def card():
    known = scorecard()
    return f"{lead(known)}\n\n{raw(to_html(known, page=False, href='{slug}.html'))}"


def raw(html): return f"```{{raw}} html\n{html}\n```"
