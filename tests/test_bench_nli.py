"The speed of pair scoring is measured fairly, and a stream of pairs holds no more than its window: structure only, never a time"
import json
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from reasonlab import core  # noqa: E402
from reasonlab.lab import bench_nli as bench  # noqa: E402
from reasonlab.models.cross import CrossEncoder  # noqa: E402
from reasonlab.models.encoder import ModelMissing, pack_items, read_pairs  # noqa: E402


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    "A tiny cross-encoder whose weights are large enough for its logits to differ"
    try: folder = bench.random_head(tmp_path_factory.mktemp("net"), tiny=True)
    except ModelMissing as e: pytest.skip(str(e))
    cross = CrossEncoder.load(folder, "cpu")
    torch.manual_seed(1)
    for p in cross.net.parameters():
        if p.dim() > 1: torch.nn.init.normal_(p, std=.5)
    cross.net.save_pretrained(folder)
    return folder


@pytest.fixture
def cross(net): return CrossEncoder.load(net, "cpu")


def made(cross, n, seed=0, kind="mnli"):
    rng = np.random.default_rng(seed)
    return bench.made_pairs(cross.reader.tokenizer, bench.lengths_like(kind, n, rng), rng)


@pytest.mark.parametrize("kind", ["mnli", "snli"])
def test_the_texts_have_the_lengths_that_are_named(cross, kind):
    rng = np.random.default_rng(3)
    lengths = bench.lengths_like(kind, 60, rng)
    pairs = bench.made_pairs(cross.reader.tokenizer, lengths, rng)
    assert [len(i.ids) for i in read_pairs(cross.reader, *zip(*pairs))] == lengths.tolist()
    assert len(set(pairs)) == 60, "a pair that repeats is computed once, and would be a gift to ours"


def test_every_arm_computes_the_same_thing(net, cross):
    pairs = made(cross, 30)
    arms = bench.our_arms(cross, pairs) | bench.peer_arms(net, pairs, (1, 8))
    got = {k: read(f()) for k, (f, read) in arms.items()}
    want = got.pop("one at a time")
    assert want.std(0).min() > .1, "logits that are all alike prove nothing"
    for k, out in got.items(): torch.testing.assert_close(torch.as_tensor(out), want, atol=1e-5, rtol=1e-5, msg=k)


def test_what_is_timed_is_what_is_compared(net, cross):
    "Ours is timed through `results`, and compared by logits: they belong together, at each budget"
    pairs = made(cross, 20)
    for k, (f, read) in bench.our_arms(cross, pairs).items():
        if not k.startswith("ours"): continue
        probs = torch.softmax(read(out := f())[:, cross.order], 1)
        torch.testing.assert_close(out.probs, probs, atol=1e-6, rtol=1e-5)


def test_a_wrong_number_is_seen(cross):
    pairs = made(cross, 6)
    ours = bench.our_arms(cross, pairs)
    f, read = ours[f"ours, {bench.BUDGET} tokens"]
    ours[f"ours, {bench.BUDGET} tokens"] = f, lambda out: read(out) + torch.eye(6, 3)*1e-3  # two logits off by a thousandth
    found = bench.match(ours, 1, cross.net.config, 1., last=1)
    run = dict(clock="cpu", contests=[dict(found, kind="mnli", ratios=[], share=dict(cpu=1.))], memory=dict(growth=0.))
    assert bench.shortfalls(run) == [f"mnli: other numbers from ours, {bench.BUDGET} tokens"]


def test_the_last_layer_asks_first_tokens_only(cross):
    "Counted at the layers: the last feed-forward sees one token of each pair, and the FLOP that are claimed are those"
    items, seen = read_pairs(cross.reader, *zip(*made(cross, 9))), Counter()
    def count(m, args, out): seen[m] += 2*args[0].shape[:-1].numel()*m.in_features*m.out_features
    layers = cross.net.bert.encoder.layer
    linear = [m for m in layers.modules() if isinstance(m, torch.nn.Linear)]
    for m in linear: m.register_forward_hook(count)
    assert cross.asks and cross.packs
    lengths = [len(i.ids) for i in items]
    with torch.no_grad(): cross.logits(pack_items(items))
    assert seen[layers[-1].intermediate.dense] == 2*9*32*64 and seen[layers[0].intermediate.dense] == 2*sum(lengths)*32*64
    products = 4*32*(sum(n*n for n in lengths) + sum(lengths))  # of attention: one layer in full, one with a query for each pair
    assert sum(seen.values()) == bench.flop(cross.net.config, lengths, asks=True) - products


def test_where_only_asking_is_wrong_it_is_not_done(net):
    "A head that reads the second token where there is one: no error, only other numbers; proven at loading, and left out"
    whole = CrossEncoder.load(net, "cpu")
    class Pooler(torch.nn.Module):
        def forward(self, states): return states[:, 1 % states.shape[1]]
    whole.net.bert.pooler = Pooler()
    cross = CrossEncoder(whole.net, whole.reader.tokenizer)
    assert not cross.asks and not cross.packs
    pairs = made(cross, 12)
    alone = torch.cat([cross.net(**cross.reader.tokenizer(*p, return_tensors="pt")).logits for p in pairs])
    got = cross.score(*zip(*pairs))
    torch.testing.assert_close(got, torch.softmax(alone[:, cross.order], 1), atol=1e-5, rtol=1e-5)


def test_turns_are_even():
    said = []
    got = bench.take_turns({k: lambda k=k: said.append(k) for k in "abc"}, 4)
    assert "".join(said) == "abccbaabccba" and Counter(said) == dict(a=4, b=4, c=4)
    assert all(least <= median for v in got.values() for median, least in v.values())


def test_the_best_of_a_peer_counts_and_the_default_of_ours():
    took = {"pipeline, batch 1": 5., "pipeline, batch 8": 3., "pipeline, batch 32": 4., "ours, 512 tokens": 1., "ours, 1024 tokens": 2., "ours, 2048 tokens": 1.}
    times = {k: dict(wall=[v, v]) for k, v in took.items()}
    last = bench.finalists(times, ["pipeline"], "wall")
    assert last == ["ours, 1024 tokens", "pipeline, batch 8", "pipeline, batch 32"], "the best setting did not get into the final"
    rows = dict(final=[dict(arm=k, **times[k]) for k in last])
    assert bench.ratios(rows, {"pipeline": 2.}, "wall") == [dict(peer="pipeline", best="pipeline, batch 8", ratio=1.5, target=2.)]


def test_a_missing_peer_is_told_and_is_no_error(net, cross, monkeypatch):
    find = bench.importlib.util.find_spec
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda n: None if n == "sentence_transformers" else find(n))
    pairs = made(cross, 4)
    arms = bench.our_arms(cross, pairs) | bench.peer_arms(net, pairs, (1, 4))
    assert not any(k.startswith("sentence") for k in arms)
    found = bench.match(arms, 1, cross.net.config, 1., [*bench.TARGETS], last=1)
    told = {r["peer"]: r["best"] for r in bench.ratios(found, bench.TARGETS, "cpu")}
    assert told["sentence-transformers"] is None and told["pipeline"].startswith("pipeline, batch")


def test_the_grid_gives_the_zero_shot_probabilities(net, cross):
    texts, labels = [p for p, _ in made(cross, 5, kind="snli")], ["sport", "politics and law", "weather"]
    got = {k: read(f()) for k, (f, read) in bench.zero_shot_arms(net, cross, texts, labels, (4,)).items()}
    want = got.pop("zero-shot pipeline, default")
    assert want.shape == (5, 3) and want.std() > .01
    for k, out in got.items(): torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-5, msg=k)


def test_each_distinct_text_is_read_once(cross, monkeypatch):
    "A grid of texts and hypotheses costs as many tokenisations as there are texts, not as there are pairs"
    read, tokenizer = [], cross.reader.tokenizer
    class Counts:
        unk_token_id = tokenizer.unk_token_id
        def __call__(self, texts, **kw): read.extend(texts); return tokenizer(texts, **kw)
    monkeypatch.setattr(cross.reader, "tokenizer", Counts())
    texts, labels = ["it rained", "the sun shone", "it was late"], ["wet", "dry", "dark", "cold"]
    cross.results([t for t in texts for _ in labels], labels*3, False)
    assert Counter(read) == Counter(texts + labels)


def test_a_stream_reads_no_further_than_its_window(cross):
    asked, window = [0], 16
    def told():
        for i in range(100): asked[0] += 1; yield f"it rained {i} times", "wet"
    for done, row in enumerate(cross.stream(told(), window), 1):
        assert "label" in row and asked[0] - done < window, "pairs pile up"
    assert done == asked[0] == 100


def test_a_stream_forgets_what_it_has_told(cross):
    "No pair, item or row of an earlier window is alive when a later one is scored"
    import gc
    import weakref
    class Text(str): pass
    alive = []
    def told():
        for i in range(60):
            t = Text(f"it rained {i} times")
            alive.append(weakref.ref(t))
            yield t, "wet"
            del t
    for done, _ in enumerate(cross.stream(told(), 10), 1):
        if done % 10 == 1:
            gc.collect()
            old = [r for r in alive[:max(0, done - 21)] if r() is not None]
            assert not old, f"{len(old)} texts of windows long done are kept"


def test_memory_that_grows_is_seen(cross, monkeypatch):
    held = iter(range(500, 10_000))
    monkeypatch.setattr(bench, "resident", lambda: float(next(held)))
    got = bench.stream_memory(cross, 400, 1200, window=100)
    assert got["mib"] == [501., 505.] and got["growth"] == pytest.approx(4/501, abs=1e-4)
    monkeypatch.setattr(bench, "resident", lambda: 500.)
    flat = bench.stream_memory(cross, 400, 1200, window=100)
    assert (flat["growth"], flat["few"], flat["many"]) == (0., 400, 1200)


@pytest.mark.skipif(not core.asset("calibration").joinpath("bench_nli.json").is_file(), reason="not measured yet")
def test_the_stored_table_is_whole():
    table = json.loads(core.asset("calibration/bench_nli.json").read_text(encoding="utf-8"))
    assert table["schema"] == 1 and table["name"] == "bench_nli" and table["runs"]
    for run in table["runs"]:
        assert not run["tiny"] and run["machine"]["cpu"] and run["versions"]["torch"] and run["memory"]["many"] == 10*run["memory"]["few"]
        assert [c["kind"] for c in run["contests"]] == ["mnli", "snli", "zero-shot"]
        assert len(run["commit"]) == 40, "measured from code that is not in git"
        assert not [m for m in bench.shortfalls(run) if "other numbers" in m]
        for c in run["contests"]:
            best = {r["peer"]: r for r in c["ratios"]}
            took = {a["arm"]: a[run["clock"]][0] for a in c["final"]}
            for peer, r in best.items():
                assert r["ratio"] == pytest.approx(min(v for k, v in took.items() if k.startswith(peer))/took["ours, 1024 tokens"], rel=.002)
