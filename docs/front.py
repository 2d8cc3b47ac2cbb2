"What the site shows that is computed: one wrong chain, checked by `verify`; the scorecard; the page on trust"
from reasonlab import verify
from reasonlab.claims import OUTCOMES
from reasonlab.coverage import rows_of
from reasonlab.lab.report import fragment
from reasonlab.lab.scorecard import calibration, error_rates, lead, scorecard, to_html

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
    return f"[{lead(known)}](#scorecard.lead)\n\n{raw(to_html(known, page=False, href='{slug}.html'))}"


def raw(html): return f"```{{raw}} html\n{html}\n```"


# The page on trust: each function turns one table of data/calibration into markdown.

NOT_YET = "*Not measured yet.*"


def percent(x): return f"{100 * x:.1f}".removesuffix(".0") + " %"


def rate(r): return f"{percent(r[0])} [{100 * r[1]:.1f}, {100 * r[2]:.1f}]"


def grid(head, rows):
    "A markdown table; what stands in a cell is text"
    def line(cells): return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def placebo(table):
    rows = [(r["arm"], r["what"], r["n"], f"{r['share']} [{r['interval'].replace(' to ', ', ')}]", r["bar"] or "none", r["kept"] or "no bar")
            for r in error_rates(table)]
    kinds = [(k["arm"], k["bench"], k["kind"], f"{k['n']:,}", *(f"{k[o]:,}" for o in OUTCOMES)) for k in table["kinds"]]
    return "\n\n".join([
        "Whole studies were run on methods of which the truth is known: shams, whose claim is that there is anything at all; effects that lie "
        "exactly at the bar of their claim; real effects beside a control or a floor that finds them as well; and effects of the size that the "
        "claim is sized for. (At the bar itself power is near zero by the rule: `supported` wants the whole interval *beyond* it.) "
        "The rate is the share that came out `supported`, with its 95 % Wilson interval. A bar is met when the whole interval keeps it, missed when the whole interval breaks it, otherwise open.",
        grid(("arm", "what", "studies", "called supported [95 %]", "bar", "verdict"), rows),
        "By study and kind:\n\n" + grid(("arm", "study", "kind", "n", *OUTCOMES), kinds)])


WORDS = dict(under="**too rarely**", holds="as stated", over="more than stated")


def coverage(table):
    by, rows = {}, rows_of(table)
    interval = [r for r in rows if r["truth below"] is not None]
    clusters = sorted({r["clusters"] for r in rows})
    for r in rows: by.setdefault((r["on trial"], r["shape"]), {})[r["clusters"]] = r
    def share(r): return rate((r["rate"], r["low"], r["high"]))
    def cell(r):
        if r["truth below"] is None: return f"{share(r)}, {'**too often**' if r['verdict'] == 'under' else 'as stated or less'}"
        return f"{share(r)}, {WORDS[r['verdict']]}; {percent(r['truth below'])} below, {percent(r['truth above'])} above"
    def body(some): return [(*key, *(cell(at[c]) if c in at else "" for c in clusters))
                            for key, at in by.items() if (next(iter(at.values())) in interval) == some]
    low = sum(r["verdict"] == "under" for r in interval)
    columns = tuple(f"{c} clusters" for c in clusters)
    return "\n\n".join([
        f"Data were drawn {table['simulations']:,} times from laws whose truth is known, and every interval of the lab was asked for it. "
        f"Coverage is the share of draws in which the interval held the truth; it should be 95 %. **{low} of {len(interval)}** settings certainly "
        "miss too often, in all or on one side (where 2.5 % is promised). *Below* and *above*: how often the truth lay on that side of the interval. "
        "What a verdict rests on is called *finding*.",
        grid(("interval", "shape", *columns), body(True)),
        "A test at the 5 % level should reject a true null in 5 % of the draws:\n\n" + grid(("test", "shape", *columns), body(False))])


def drills(table):
    rows = [(r["drill"], r["study"], r["what"], f"{r['held']:,} of {r['runs']:,}", "held" if r["held"] == r["runs"] else f"**lost {r['runs'] - r['held']:,}**")
            for r in table["rows"]]
    over = table.get("overhead")
    return "\n\n".join([
        "A run is killed, its disk filled, its files damaged, over and over. What must hold is that it ends as if nothing had happened, or refuses "
        "with one clear error; nothing is lost and nothing wrong is believed.",
        grid(("drill", "study", "what must hold", "held", "in a word"), rows),
        *[f"Keeping every row safe costs {percent(over['share'])} of the time of {over['study']} (n = {over['n']:,})." if over else ""] * bool(over)])


def fuzz(table):
    rows = [(f"`{r['target']}`", r["engine"], f"{r['seconds']:,} s", f"{r['runs']:,}", f"{r['corpus']:,}", "none" if not r["crashes"] else f"**{r['crashes']:,}**")
            for r in table["rows"]]
    return ("Whatever reads what a stranger wrote was fed with inputs bred to reach new branches. A crash is any error other than the one that the "
            "reader promises.\n\n" + grid(("reader", "engine", "time", "inputs", "corpus", "crashes"), rows))


def axe(table):
    found = [(f["page"], f["scheme"], f["rule"], f["impact"], f["nodes"], f["help"]) for f in table["found"]]
    return "\n\n".join([
        f"[axe-core](https://github.com/dequelabs/axe-core) {table['version']} read {table['pages']} pages of this site in a real browser, "
        f"{' and '.join(table['schemes'])}, with every fold but that of source code open. {table['rules_passed']} of its rules applied and were kept everywhere. "
        "No rule is switched off. A serious or critical violation fails the tests.",
        grid(("impact", "violations"), [(i, table["violations"][i]) for i in ("critical", "serious", "moderate", "minor")]),
        *["What is left:\n\n" + grid(("page", "scheme", "rule", "impact", "places", "what it asks"), found)] * bool(found)])


def judge(table):
    "Held-out accuracy of the judge that ships, beside its floors"
    lines = [r for r in table["lines"] if "accuracy" in r]
    def row(r): return (r["about"] or r["set"], f"{r['n']:,}", f"{r['groups']:,}", rate(r["accuracy"]), percent(r["majority"]),
                        percent(r["without_premise"]) if "without_premise" in r else "", rate(r["gain"]) if "gain" in r else "",
                        f"{r['ece']:.3f}" if "ece" in r else "")
    head = ("set", "rows", "groups", "right [95 %]", "most common label", "without the premise", "gain over that [95 %]", "ECE")
    by = {}
    for r in lines:
        if r["about"]: by.setdefault(r["set"], []).append(row(r))
    return "\n\n".join([
        "The judge that ships was measured once on groups of texts that its training never saw; intervals draw whole groups. The most common label is "
        "that of the rows that were scored, and the model without a premise sees hypotheses only.",
        grid(head, [row(r) for r in lines if not r["about"]]),
        *[f"By phenomenon, {name}:\n\n" + grid(("phenomenon", *head[1:]), rows) for name, rows in by.items()]])


def bench_nli(table):
    out = ["Pairs of random words, as long as those of MultiNLI and SNLI, go through a cross-encoder of MiniLM's shape; then 40 texts with 8 labels each "
           "through a zero-shot classifier. All arms take turns in one process, every peer is swept over its documented settings, and its two best meet "
           "ours in a final of more turns, where the better counts. "
           "One thread is timed in seconds of the processor, several in seconds of the clock. *Of the matrix rate*: what the arithmetic of ours makes of "
           "the speed at which the same process multiplies matrices of the same shapes."]
    for r in table["runs"]:
        m, clock, rows = r["machine"], r["clock"], []
        for c in r["contests"]:
            took = {a["arm"]: a[clock][0] for a in c["final"]}
            ours = next(k for k in took if k.startswith("ours, 1024"))
            far = max(a["gap"] for a in c["arms"] if a["arm"].startswith("ours"))
            rows += [(c["kind"], f"{x['peer']}: not installed", "", "", "", "", "") if x["best"] is None else
                     (c["kind"], x["best"], f"{c['pairs'] / took[x['best']]:,.0f}", f"{c['pairs'] / took[ours]:,.0f}",
                      f"{x['ratio']:.2f}" if not x["target"] or x["ratio"] >= x["target"] else f"**{x['ratio']:.2f}**",
                      x["target"] and f"{x['target']:g}" or "none", f"{far:.0e}") for x in c["ratios"]]
        rate = ", ".join(f"{c['kind']} {percent(c['share'][clock])}" for c in r["contests"])
        half = [f"{c['kind']} {took[k] / took['bf16, packed']:.2f}x (logits off by {a['gap']:.0e})" for c in r["contests"] for a in c["arms"]
                if a["arm"] == "bf16, packed" for took in [{b["arm"]: b[clock][0] for b in c["arms"]}] for k in took if k.startswith("ours, 1024")]
        mib, rows_of = r["memory"]["mib"], (r["memory"]["few"], r["memory"]["many"])
        out += [f"**{r['threads']} thread{'s' * (r['threads'] > 1)}**, {m['cpu']} ({m['isa']}), "
                + ", ".join(f"{k} {v or 'not installed'}" for k, v in r["versions"].items() if k in ("torch", "transformers", "sentence-transformers")) + ":",
                grid(("pairs", "the peer at its best", "its pairs a second", "ours", "ratio", "promised", "logits off by"), rows),
                f"Of the matrix rate: {rate}. A stream held {mib[0]:,.0f} MiB at most in its first {rows_of[0]:,} rows and {mib[1]:,.0f} MiB in {rows_of[1]:,}."
                + (f" An extra, with other numbers: in bf16 the same network is faster than in fp32, {', '.join(half)}." if half else "")]
    return "\n\n".join(out)


def bench_kernels(table):
    from reasonlab.kernels.bench_kernels import ratios, targets
    out = ["The log-probability of given tokens and the divergence of two models, without logits in memory, beside naive forms, torch's own "
           "`linear_cross_entropy` at its documented settings and losses over chunks of tokens. All arms take turns in one process; a peer's fastest "
           "setting stands for it. *Extra memory* is what a call held beyond what was there, in MiB; *matrix rate*: what ours makes of the speed at which the same "
           "process multiplies these very matrices. A ratio above 1 says that ours is faster."]
    for r in table["runs"]:
        m, rows = r["machine"], []
        for c in r["contests"]:
            own = next(a for a in c["arms"] if a["arm"] == "ours")
            rows += [(c["name"], x["best"], f"{x['ratio']:.2f}", mib(own["mib"]), mib(x["mib"]), percent(own["share"])) for x in ratios(c)]
        where = m["name"] + ("" if r["device"] == "cuda" else f", {r['threads']} thread{'s' * (r['threads'] > 1)}")
        goals = [(c["name"] + (f", width {c['shape'][1]}" if r["device"] == "cuda" else ""), what, "not measured" if x is None else
                  f"{x:.2f}" if kept else f"**{x:.2f}**", bar.replace(">=", "at least").replace("<=", "at most"))
                 for c in r["contests"] for what, x, bar, kept in targets(c, r["device"])]
        out += [f"**{where}**, torch {m['torch']}, {', '.join(map(str, r['contests'][0]['shape']))} (tokens, width, rows), {r['contests'][0]['dtype']}:",
                grid(("contest", "the peer at its best", "its time over ours", "extra memory, ours", "its", "matrix rate"), rows),
                grid(("contest", "promised", "measured", "to reach"), goals)]
    if all(r["device"] != "cuda" for r in table["runs"]): out.append(
        "On a GPU: not measured. `python -m reasonlab.kernels.bench_kernels --out FILE` is the script, and `reasonlab bench kernels --device cuda --store` puts it here.")
    return "\n\n".join(out)


def bench_lm(table):
    from reasonlab.models.bench_lm import lm_ratios
    out = ["One context and several continuations behind it, scored by a small Llama: whole logits of each joined text, only the needed states, or the "
           "context read once. A way's fastest batch size stands for it; a ratio above 1 says that ours is faster."]
    for r in table["runs"]:
        m = r["machine"]
        where = m["name"] + ("" if r["device"] == "cuda" else f", {r['threads']} thread{'s' * (r['threads'] > 1)}")
        rows = [(x["best"], f"{x['ratio']:.2f}" if x["kept"] else f"**{x['ratio']:.2f}**", f"at least {x['goal']:g}") for x in lm_ratios(r)]
        out += [f"**{where}**, torch {m['torch']}, {r['context']} tokens and {r['options']} times {r['length']}, largest difference "
                f"{max(a['gap'] for a in r['arms']):.0e}:", grid(("the way at its best", "its time over ours", "to reach"), rows)]
    return "\n\n".join(out)


def mib(x): return "not measured" if x is None else f"{x:,.0f}"


TRUST = dict(judge=judge, placebo=placebo, coverage=coverage, drills=drills, fuzz=fuzz, bench_nli=bench_nli, bench_kernels=bench_kernels, bench_lm=bench_lm, axe=axe)


PAGE = dict(judge="held_out")  # the chapter, where it has another name


def trust(text, pages, folder=None):
    "docs/trust.md with its marks filled in; a table links to its chapter once that stands"
    for name, said in TRUST.items():
        table = calibration(name, folder)
        page = PAGE.get(name, name)
        chapter = f"\n\nHow: [{page}](/{page}.ipynb)." if page in pages else ""
        text = text.replace(f"@{name}@", (said(table) if table else NOT_YET) + chapter)
    return text
