"What strangers send to a judge: texts, label sets, weights, files. Each is answered with one clear line, and its neighbours are served"
import gzip, hashlib, io, json, os, pickle, random, shlex, shutil, socket, struct, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from typer.testing import CliRunner

from reasonlab.core import LABELS

torch = pytest.importorskip('torch', reason='the extra [models] is not installed')
transformers = pytest.importorskip('transformers', reason='the extra [models] is not installed')
from reasonlab.lab import cli, cli_nli  # noqa: E402
from reasonlab.models.cross import TWO, CrossEncoder, PairScorer, label_order  # noqa: E402
from reasonlab.models.encoder import DEFAULT, find_model  # noqa: E402

NAMES = {0: 'contradiction', 1: 'entailment', 2: 'neutral'}
ROOM = 130  # tokens of a pair
RAIN, WET = 'It rained all night.', 'The street is wet.'


def tokenizer(): return transformers.AutoTokenizer.from_pretrained(find_model(DEFAULT))


def save(folder, labels=NAMES, edit=None, **kw):
    "A small BERT for pairs with random weights, saved as anybody would"
    torch.manual_seed(0)
    size = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=30522,
                max_position_embeddings=ROOM, pad_token_id=0) | kw
    net = transformers.BertForSequenceClassification(transformers.BertConfig(id2label=labels, **size))
    for p in net.parameters(): torch.nn.init.normal_(p, std=.3)
    if edit: edit(net)
    net.save_pretrained(folder); tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return save(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def judge(folder): return CrossEncoder.load(folder, 'cpu')


@pytest.fixture
def copy(folder, tmp_path): return Path(shutil.copytree(folder, tmp_path/'model'))


def lab(*args, stdin=None):
    "A command in this process: exit status, standard output, standard error"
    got = CliRunner().invoke(cli.app, list(map(str, args)), input=stdin)
    assert got.exception is None or isinstance(got.exception, SystemExit), got.exception
    return got.exit_code, got.stdout, got.stderr


@pytest.fixture
def nli(judge, monkeypatch):
    "`reasonlab nli --json` with the small judge, already loaded: exit status, rows, standard error"
    monkeypatch.setattr(cli_nli, 'judge_of', lambda name, device=None: judge)

    def ask(given, *args):
        if isinstance(given, list): given = '\n'.join(map(json.dumps, given)).encode()
        status, out, err = lab('nli', '-', '--json', *args, stdin=given)
        return status, list(map(json.loads, out.splitlines())), err
    return ask


def alone(judge, premise, hypothesis): return judge.score([premise], [hypothesis])[0].tolist()


def near(got, want): return list(got) == pytest.approx(list(want), abs=2e-6)


def clear(text, *parts):
    "One line for a person: what is wrong, and no traceback"
    assert len(text.strip().splitlines()) == 1 and 'Traceback' not in text, text
    for p in parts: assert p in text, (p, text)


# ---- texts

@pytest.mark.parametrize('blank', ['', ' ', '\t\n \u2003'])
@pytest.mark.parametrize('field', ['premise', 'hypothesis'])
def test_an_empty_text_costs_its_row(nli, judge, field, blank):
    good = dict(premise=RAIN, hypothesis=WET)
    status, rows, err = nli([good, good | {field: blank}, good])
    assert status == 1 and f'the {field} is empty' in err and 'row 2' in err
    assert rows[1] == dict(schema=1, id='2', error=f'the {field} is empty')
    for r in (rows[0], rows[2]): assert near(r['probs'].values(), alone(judge, RAIN, WET))


@pytest.mark.parametrize('value', [None, 3, True, ['a'], {'a': 1}])
@pytest.mark.parametrize('field', ['premise', 'hypothesis'])
def test_what_is_no_text_costs_its_row(nli, field, value):
    good = dict(premise=RAIN, hypothesis=WET)
    status, rows, err = nli([good | {field: value}, good, {k: v for k, v in good.items() if k != field}])
    assert status == 1 and ['error' in r for r in rows] == [True, False, True]
    assert f'{field} is no text' in err and f'has no field "{field}"' in err


def test_of_a_hundred_thousand_tokens_only_the_premise_is_cut(nli, judge, folder):
    "Against transformers' own truncation of one pair"
    long = 'rain sun ' * 50_000
    status, rows, err = nli([dict(premise=long, hypothesis=WET), dict(premise=RAIN, hypothesis=long), dict(premise=RAIN, hypothesis=WET)])
    assert status == 1 and ['error' in r for r in rows] == [False, True, False]
    assert '100000 tokens' in rows[1]['error'] and 'shorten' in rows[1]['error']
    theirs = tokenizer()(long, WET, truncation='only_first', max_length=ROOM, return_tensors='pt')
    kept = int((theirs['token_type_ids'] == 0).sum()) - 2
    assert rows[0]['cut'] == 100_000 - kept and 'cut' not in rows[2] and f'1 premise was cut to the {ROOM} tokens' in err
    net = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad(): want = torch.softmax(net(**theirs).logits[0, [1, 2, 0]], 0)
    assert near(rows[0]['probs'].values(), want.tolist())


def test_classify_tells_what_was_cut_and_why_there_is_no_answer(judge, monkeypatch, tmp_path):
    "In the rows, beside the text in the table, on the page, and in one line; the reason is the judge's own"
    monkeypatch.setattr(cli_nli, 'judge_of', lambda name, device=None: judge)
    long, page = 'rain sun ' * 200, tmp_path/'page.html'
    texts = '\n'.join(json.dumps(dict(text=t)) for t in (RAIN, long, '\ue000', RAIN))
    ask = ['classify', '-', '--labels', 'sun,rain']
    status, out, err = lab(*ask, '--json', '--report', page, stdin=texts)
    rows = list(map(json.loads, out.splitlines()))
    want = max(judge.results([long], [f'This text is about {w}.']).cut[0] for w in ('sun', 'rain'))
    assert status == 1 and [r.get('cut') for r in rows] == [None, want, None, None] and want > 200
    assert 'holds no sign that the model knows' in rows[2]['error'] and 'holds no sign that the model knows' in err
    assert f'1 text was cut to the {ROOM} tokens that the judge reads: {want} tokens were left out' in err
    assert f'{want} tokens of the text were not read' in page.read_text() and 'holds no sign' in page.read_text()
    table = ' '.join(lab(*ask, stdin=texts)[1].split())
    assert 'cut]' in table and str(want) in table and 'no sign' in table
    pair_ = json.dumps(dict(premise=long, hypothesis=WET))
    assert 'cut]' in lab('nli', '-', stdin=pair_)[1] and 'tokens were left out' in lab('nli', '-', stdin=pair_)[2]


def test_a_hypothesis_too_long_for_the_judge_is_named_in_classify(judge, monkeypatch, tmp_path):
    monkeypatch.setattr(cli_nli, 'judge_of', lambda name, device=None: judge)
    (tmp_path/'labels.json').write_text(json.dumps(dict(a='It rained.', b='so ' * 200)))
    status, out, _ = lab('classify', '-', '--json', '--labels-file', tmp_path/'labels.json', stdin=json.dumps(dict(text=RAIN)))
    error = json.loads(out)['error']
    assert status == 1 and '200 tokens' in error and 'shorten' in error and '(asked: so so' in error


@pytest.mark.parametrize('given,why', [(dict(names=['a', 'b'], definitions=dict(a='x', b=3)), "the definition of 'b' is a text"), (dict(a='x', b=3), "'b' needs a sentence"),
                                       (3, 'look like'), (dict(names=3), 'type int'), (dict(names=['a', 'b'], templates=3), '')])
def test_a_label_file_with_a_fault_is_named(tmp_path, given, why):
    p = tmp_path/'labels.json'
    p.write_text(json.dumps(given))
    status, out, err = lab('classify', '-', '--labels-file', p, stdin=json.dumps(dict(text=RAIN)))
    assert status == 2 and not out
    clear(err, 'labels.json: ', why)


def test_a_hypothesis_just_fits_or_does_not(judge):
    "The longest hypothesis leaves one token of the premise"
    most = ROOM - 3 - 1
    got = judge.results([RAIN]*2, ['wet ' * most, 'wet ' * (most + 1)])
    assert list(got.errors) == [1] and f'{most} fit' in got.errors[1] and got.cut[0] == len(tokenizer().tokenize(RAIN)) - 1


ODD = dict(surrogate='a lone \ud83d here', rtl='نزل المطر طوال الليل', mixed='\u202eniar\u202c rain', zero_width='ra\u200bin\u200d\ufeff',
           emoji='🌧👩‍👩‍👧‍👦 all night', combining='e\u0301' * 40, controls='rain\x00\x07\x1b[2J', only_marks='¡¿…',
           specials='[CLS] [SEP] [PAD] [MASK] [UNK]', markup='<script>alert(1)</script>')


@pytest.mark.parametrize('name', ODD)
def test_odd_text_is_text(nli, judge, name, tmp_path):
    "Answered as it would be alone, printable in the table, harmless on the page"
    text, good = ODD[name], dict(premise=RAIN, hypothesis=WET)
    status, rows, err = nli([good, dict(premise=text, hypothesis=WET), dict(premise=RAIN, hypothesis=text[:90]), good], '--report', tmp_path/'page.html')
    assert status == 0, err
    assert near(rows[0]['probs'].values(), rows[3]['probs'].values())
    assert near(rows[1]['probs'].values(), alone(judge, text, WET))
    assert near(rows[2]['probs'].values(), alone(judge, RAIN, text[:90]))
    page = (tmp_path/'page.html').read_bytes().decode()
    assert '<script' not in page and page.count('class="badge') == 4 + len({r['label'] for r in rows})
    p = tmp_path/'x.jsonl'
    p.write_text(json.dumps(dict(premise=text, hypothesis=WET)))
    status, out, _ = lab('nli', p)
    assert status == 0 and '\x1b' not in out and '\x00' not in out and '\u202e' not in out


def test_a_lone_surrogate_counts_as_the_replacement_character(judge):
    assert near(alone(judge, 'rain \ud83d rain', WET), alone(judge, 'rain \ufffd rain', WET))


@pytest.mark.parametrize('text', ['\ue000\U0010ffff', 'x' * 5000, '\u200b', '\U0001f327'])
def test_text_without_a_known_sign_is_no_question(nli, text):
    "A judge that sees unknown tokens only would answer all the same, and confidently"
    good = dict(premise=RAIN, hypothesis=WET)
    status, rows, err = nli([good, dict(premise=text, hypothesis=WET), dict(premise=RAIN, hypothesis=text)])
    assert status == 1 and 'label' in rows[0] and 'error' in rows[1] and 'error' in rows[2]
    for line, what in zip(err.strip().splitlines(), ('premise', 'hypothesis'), strict=True): clear(line, f'the {what} holds no sign')


@pytest.mark.parametrize('packs', [True, False])
def test_a_text_makes_no_marks(judge, monkeypatch, packs):
    "The names of marks in a text are words, and the row beside it keeps its answer"
    monkeypatch.setattr(judge, 'packs', packs)
    got = judge.score(['[PAD] [PAD] [PAD]', RAIN, '[PAD]'], ['[PAD]', WET, WET])
    assert torch.isfinite(got).all() and near(got[1], alone(judge, RAIN, WET))
    net, t = judge.net, tokenizer()('[PAD] [PAD] [PAD]', '[PAD]', return_tensors='pt', split_special_tokens=True)
    assert not set(t['input_ids'][0, 1:-1].tolist()) & {0, 100, 101, 103}
    t['attention_mask'] = torch.ones_like(t['input_ids'])
    with torch.no_grad(): want = torch.softmax(net(**t).logits[0, judge.order], 0)
    assert near(got[0], want.tolist())


# ---- labels

WRONG = dict(numbered=['LABEL_0', 'LABEL_1', 'LABEL_2'], no_entailment=['neutral', 'contradiction', 'other'], two_of_three=['neutral', 'entailment'],
             four=[*LABELS, 'other'], twice=['entailment', 'entails', 'neutral'], sentiment=['negative', 'neutral', 'positive'], single=['entailment'])


@pytest.mark.parametrize('name', WRONG)
def test_a_head_without_clear_labels_is_refused(copy, name):
    save(copy, dict(enumerate(WRONG[name])))
    status, out, err = lab('nli', '--model', copy, '-', stdin=json.dumps(dict(premise=RAIN, hypothesis=WET)))
    assert status == 2 and not out
    clear(err, 'not guessed', 'id2label', WRONG[name][0])


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_the_order_of_outputs_does_not_matter(tmp_path, judge, order):
    "The same network with its outputs, and their names, in another order"
    def turn(net):
        net.classifier.weight.data, net.classifier.bias.data = net.classifier.weight[list(order)].data, net.classifier.bias[list(order)].data
    other = CrossEncoder.load(save(tmp_path, {i: NAMES[k].upper() for i, k in enumerate(order)}, turn))
    assert near(alone(other, RAIN, WET), alone(judge, RAIN, WET)) and other.labels == LABELS


def test_two_labels_are_told_apart_from_three(tmp_path):
    "nli and classify take them; where a contradiction is asked for they are refused"
    save(tmp_path/'two', {0: 'not_entailment', 1: 'entailment'})
    pair, text = json.dumps(dict(premise=RAIN, hypothesis=WET)), json.dumps(dict(text=RAIN))
    status, out, _ = lab('nli', '--model', tmp_path/'two', '-', '--json', stdin=pair)
    row = json.loads(out)
    assert status == 0 and list(row['probs']) == list(TWO) and sum(row['probs'].values()) == pytest.approx(1, abs=1e-5)
    assert lab('nli', '--model', tmp_path/'two', '-', stdin=pair)[0] == 0
    assert lab('nli', '--model', tmp_path/'two', '-', '--fail-on', row['label'], stdin=pair)[0] == 3
    assert lab('classify', '--model', tmp_path/'two', '--labels', 'sun,rain', '-', stdin=text)[0] == 0
    status, _, err = lab('verify', '--judge', tmp_path/'two', '-', stdin=json.dumps(dict(question='', answer='2 + 2 = 4')))
    assert status == 2
    clear(err, 'three labels')


@given(st.permutations(LABELS), st.sampled_from([str.upper, str.title, str.lower, lambda s: f' {s} ']))
def test_names_decide(labels, spell):
    found, order = label_order({i: spell(l) for i, l in enumerate(labels)})
    assert found == LABELS and [labels[i] for i in order] == list(LABELS)


def test_a_head_of_another_size_than_its_labels_is_refused(copy):
    config = json.loads((copy/'config.json').read_text())
    config |= dict(id2label={'0': 'not_entailment', '1': 'entailment'}, label2id=dict(not_entailment=0, entailment=1))
    (copy/'config.json').write_text(json.dumps(config))
    status, _, err = lab('nli', '--model', copy, '-', stdin='{}')
    assert status == 2
    clear(err, str(copy))


# ---- numbers

class Broken(PairScorer):
    "Its logits are what the first word of the hypothesis says"
    device, budget = 'cpu', 60
    def __init__(self, judge): self.reader, self.inner = judge.reader, judge
    def logits(self, pack):
        out = self.inner.logits(pack).clone()
        words = self.reader.tokenizer.convert_tokens_to_ids(['nan', 'infinite', 'minus'])
        for w, v in zip(('first', 'second', 'third'), (float('nan'), float('inf'), float('-inf'))):
            at = pack.segment[pack.ids[0] == self.reader.tokenizer.convert_tokens_to_ids(w)].unique()
            out[at, 1] = v
        assert words
        return out


def test_rows_without_a_number_are_named_and_no_others(judge):
    hyps = [WET, 'first', WET, 'second one', 'third', WET + ' Indeed.']
    got, sound = Broken(judge).results([RAIN]*6, hyps), judge.results([RAIN]*6, hyps)
    assert sorted(got.errors) == [1, 3, 4] and all('no number' in e for e in got.errors.values())
    good = [0, 2, 5]
    assert torch.equal(got.probs[good], sound.probs[good]) or (got.probs[good] - sound.probs[good]).abs().max() < 1e-6
    assert got.probs[[1, 3, 4]].isnan().all()
    with pytest.raises(ValueError, match='pair 2.*NaN'): Broken(judge).score([RAIN]*6, hyps)


@pytest.mark.parametrize('packs', [True, False])
def test_a_spoiled_weight_spoils_the_rows_that_use_it(tmp_path, judge, packs):
    "One embedding is NaN: pairs in the same line or rectangle that do not hold its token keep their numbers"
    rain = tokenizer().convert_tokens_to_ids('rain')
    def spoil(net): net.bert.embeddings.word_embeddings.weight.data[rain] = float('nan')
    bad = CrossEncoder.load(save(tmp_path, edit=spoil))
    bad.packs = packs
    hyps = ['It snowed today', 'the rain is wet', 'It is now wet', 'He was late']  # of equal length: one rectangle
    got = bad.results(['It was so']*4, hyps)
    assert list(got.errors) == [1]
    keep = [0, 2, 3]
    assert (got.probs[keep] - judge.score(['It was so']*3, [hyps[i] for i in keep])).abs().max() < 1e-5


def test_a_number_that_is_none_in_the_command(judge, monkeypatch):
    monkeypatch.setattr(cli_nli, 'judge_of', lambda name, device=None: Broken(judge))
    rows = [dict(premise=RAIN, hypothesis=h) for h in (WET, 'first', WET)]
    status, out, err = lab('nli', '-', '--json', stdin='\n'.join(map(json.dumps, rows)))
    got = [json.loads(l, parse_constant=pytest.fail) for l in out.splitlines()]  # no NaN in the JSON
    assert status == 1 and ['error' in r for r in got] == [False, True, False] and 'row 2' in err
    texts = '\n'.join(json.dumps(dict(text=t)) for t in (RAIN, WET))
    status, out, _ = lab('classify', '-', '--json', '--labels', 'sun,rain', '--template', 'first {}', stdin=texts)
    assert status == 1 and all('error' in json.loads(l) for l in out.splitlines())


# ---- vocabularies

def test_more_tokens_than_the_network_has(copy):
    t = transformers.AutoTokenizer.from_pretrained(copy)
    t.add_tokens([f'new{i}' for i in range(5)])
    t.save_pretrained(copy)
    status, _, err = lab('nli', '--model', copy, '-', stdin='{}')
    assert status == 2
    clear(err, 'do not belong together')


def test_a_token_id_beyond_the_network_among_as_many_tokens(copy):
    "The count fits, one id does not: an index error on a CPU, a dead context on a GPU"
    path = copy/'tokenizer.json'
    table = json.loads(path.read_text())
    table['model']['vocab']['rain'] = 40_000
    path.write_text(json.dumps(table))
    status, _, err = lab('nli', '--model', copy, '-', stdin=json.dumps(dict(premise='rain', hypothesis='rain')))
    assert status == 2
    clear(err, 'do not belong together')


def test_a_smaller_network_than_its_tokenizer(copy):
    save(copy, vocab_size=1000)
    status, _, err = lab('nli', '--model', copy, '-', stdin='{}')
    assert status == 2
    clear(err, 'do not belong together', '1000')


def test_spare_rows_in_the_network_are_no_fault(tmp_path):
    "Many models round their embedding up"
    assert CrossEncoder.load(save(tmp_path, vocab_size=30_592)).score([RAIN], [WET]).shape == (1, 3)


# ---- networks that cannot be packed

UNPACKED = dict(mobilebert=dict(intra_bottleneck_size=16, true_hidden_size=16), convbert={}, fnet={}, nystromformer={}, **{'deberta-v2': {}})
PADS_FREELY = {'deberta-v2'}  # padding does not change its outputs


def small(kind, head=True):
    "A network of a kind, two layers, random weights"
    torch.manual_seed(0)
    size = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=ROOM, pad_token_id=0,
                vocab_size=30522, embedding_size=32, id2label=NAMES) | UNPACKED[kind]
    auto = transformers.AutoModelForSequenceClassification if head else transformers.AutoModel
    net = auto.from_config(transformers.AutoConfig.for_model(kind, **size))
    for p in net.parameters(): torch.nn.init.normal_(p, std=.3)
    return net.eval()


def said(n=40):
    rng = random.Random(0)
    return [' '.join(rng.choices('the a rain sun falls shines on street house very today not'.split(), k=rng.randint(1, 24))) for _ in range(n)]


@pytest.mark.parametrize('kind', UNPACKED)
def test_what_cannot_be_packed_is_scored_as_if_alone(tmp_path, kind):
    "Against transformers' own forward of one pair; the same pairs in one padded rectangle get other numbers, which the test would see"
    net, t, pairs = small(kind), tokenizer(), list(zip(said(), said()[::-1]))
    net.save_pretrained(tmp_path); t.save_pretrained(tmp_path)
    cross = CrossEncoder.load(tmp_path, budget=100)
    assert not cross.packs and not cross.asks
    types = getattr(net.config, 'type_vocab_size', 0) > 1
    with torch.no_grad():
        alone = torch.cat([net(**t(*p, return_tensors='pt', return_token_type_ids=types)).logits for p in pairs])
        padded = net(**t(*map(list, zip(*pairs)), padding=True, return_tensors='pt', return_token_type_ids=types)).logits
    assert (cross.score(*map(list, zip(*pairs))) - torch.softmax(alone[:, [1, 2, 0]], 1)).abs().max() < 1e-5
    assert ((padded - alone).abs().max() < 1e-4) == (kind in PADS_FREELY)


@pytest.mark.parametrize('kind', UNPACKED)
def test_states_of_what_cannot_be_packed(kind):
    from reasonlab.models.encoder import Encoder, mean_of, read_texts, run
    net, t = small(kind, head=False), tokenizer()
    types = getattr(net.config, 'type_vocab_size', 0) > 1
    with torch.no_grad(): want = torch.cat([net(**t(x, return_tensors='pt', return_token_type_ids=types)).last_hidden_state.mean(1) for x in said()])
    enc = Encoder(net, t, budget=100)
    got = run(enc, read_texts(enc.reader, said()), lambda p: mean_of(enc(p), p.segment, len(p.starts)))
    assert not enc.packs and (got - want).abs().max() < 1e-5


# ---- weights and models

class Payload:
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return open, (self.path, 'w')


def header(entries, body): return (lambda t: struct.pack('<Q', len(t)) + t + body)(json.dumps(entries).encode())


ENTRY = dict(dtype='F32', shape=[2], data_offsets=[0, 8])
LIES = dict(overlap=header({'a': ENTRY, 'b': ENTRY | dict(data_offsets=[4, 12])}, bytes(12)), beyond=header({'a': ENTRY | dict(data_offsets=[0, 800], shape=[200])}, bytes(8)),
            long_header=struct.pack('<Q', 1 << 40) + b'{}', page=b'<!DOCTYPE html>', empty=b'', cut=None)


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_a_pickle_called_safetensors_does_not_run(copy, tmp_path, protocol):
    (copy/'model.safetensors').write_bytes(pickle.dumps(Payload(tmp_path/'harm'), protocol))
    status, _, err = lab('nli', '--model', copy, '-', stdin='{}')
    assert status == 2 and not (tmp_path/'harm').exists()
    clear(err, 'is a pickle')


def test_weights_in_a_pickle_alone_are_refused(copy, tmp_path):
    (copy/'model.safetensors').unlink()
    (copy/'pytorch_model.bin').write_bytes(pickle.dumps(Payload(tmp_path/'harm')))
    status, _, err = lab('nli', '--model', copy, '-', stdin='{}')
    assert status == 2 and not (tmp_path/'harm').exists()
    clear(err, 'run code', 'save_pretrained')


@pytest.mark.parametrize('name', LIES)
def test_weights_that_lie(copy, name):
    p = copy/'model.safetensors'
    p.write_bytes(LIES[name] if LIES[name] is not None else p.read_bytes()[:-1000])
    status, _, err = lab('nli', '--model', copy, '-', stdin='{}')
    assert status == 2
    clear(err, 'model.safetensors')


def test_weights_of_another_shape(copy, folder):
    "Sound weights, but not those of this configuration"
    config = json.loads((copy/'config.json').read_text())
    (copy/'config.json').write_text(json.dumps(config | dict(hidden_size=64, intermediate_size=96)))
    status, _, err = lab('nli', '--model', copy, '-', stdin='{}')
    assert status == 2
    clear(err, str(copy))


def test_weights_that_are_missing(copy):
    "A layer that is not in the file would be random, and would judge at random"
    from safetensors.torch import load_file, save_file
    own = load_file(copy/'model.safetensors')
    save_file({k: v for k, v in own.items() if 'classifier' not in k}, copy/'model.safetensors', {'format': 'pt'})
    status, _, err = lab('nli', '--model', copy, '-', stdin='{}')
    assert status == 2
    clear(err, 'classifier')


def test_a_model_that_brings_code_is_not_run(copy, tmp_path):
    config = json.loads((copy/'config.json').read_text())
    config |= dict(model_type='strange', auto_map={'AutoConfig': 'mine.C', 'AutoModelForSequenceClassification': 'mine.M'})
    (copy/'config.json').write_text(json.dumps(config))
    (copy/'mine.py').write_text(f'open({str(tmp_path/"harm")!r}, "w")\n')
    status, _, err = lab('nli', '--model', copy, '-', stdin='{}')
    assert status == 2 and not (tmp_path/'harm').exists()
    clear(err, str(copy))


@pytest.mark.parametrize('broken', ['config.json', 'tokenizer.json'])
def test_a_damaged_file_of_a_model(copy, broken):
    (copy/broken).write_text('{"a": ')
    status, _, err = lab('nli', '--model', copy, '-', stdin='{}')
    assert status == 2
    clear(err, str(copy))


def test_offline_nothing_is_asked_of_the_network(monkeypatch):
    asked = []
    monkeypatch.setattr(socket.socket, 'connect', lambda self, at: asked.append(at))
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    for name in ('nobody/nothing', 'no such id', '../etc'):
        status, _, err = lab('nli', '--model', name, '-', stdin='{}')
        assert status == 2
        clear(err, 'is not on this machine', 'unset HF_HUB_OFFLINE')
    assert not asked


class Busy(BaseHTTPRequestHandler):
    asked = []
    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(503); self.send_header('Content-Length', '0'); self.end_headers()
    do_HEAD = do_GET
    def log_message(self, *_): pass


def process(*args, stdin=b'', env=(), code=''):
    return subprocess.run([sys.executable, '-c', f'{code}\nfrom reasonlab.lab.cli import main; main()', *map(str, args)], input=stdin,
                          capture_output=True, env={**os.environ, **dict(env)}, timeout=120)


def test_a_hub_that_is_busy_is_not_stormed(tmp_path):
    "One clear line after few requests"
    server = ThreadingHTTPServer(('127.0.0.1', 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = dict(HF_HUB_OFFLINE='0', HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HOME=str(tmp_path))
    try: done = process('nli', '--model', 'nobody/nothing', '-', stdin=b'{}', env=env)
    finally: server.shutdown()
    assert done.returncode == 2 and 0 < len(Busy.asked) <= 6, Busy.asked
    clear(done.stderr.decode(), 'nobody/nothing')


def test_without_the_extra_the_command_says_what_to_install():
    block = ("import sys\nclass No:\n def find_spec(self, name, *a):\n  if name.split('.')[0] in ('torch', 'transformers', 'huggingface_hub'): "
             "raise ModuleNotFoundError(name, name=name)\nsys.meta_path.insert(0, No())")
    for command in (['nli', '-'], ['classify', '--labels', 'a,b', '-'], ['verify', '--judge', 'default', '-']):
        done = process(*command, stdin=b'{}', code=block)
        assert done.returncode == 2, done.stderr
        clear(done.stderr.decode(), "pip install 'reasonlab[models]'")
    assert process('nli', '--example', code=block).returncode == 0


@pytest.mark.parametrize('device', ['nonsense', 'cuda:99'])
def test_a_device_that_is_not_there(folder, device):
    status, _, err = lab('nli', '--model', folder, '--device', device, '-', stdin=json.dumps(dict(premise=RAIN, hypothesis=WET)))
    assert status == 2
    clear(err, device)


# ---- memory of a device

@pytest.mark.parametrize('room', [1, 2, 3, 7])
def test_a_line_too_long_for_the_device_is_halved(judge, room):
    class Small(Broken):
        most = 0
        def logits(self, pack):
            if len(pack.starts) > room: raise torch.OutOfMemoryError('no room')
            self.most = max(self.most, len(pack.starts))
            return self.inner.logits(pack)
    small, hyps = Small(judge), [f'It is {"very " * (i % 5)}wet {i}.' for i in range(20)]
    small.budget = 1000
    got = small.results([RAIN]*20, hyps)
    assert not got.errors and 0 < small.most <= room
    assert (got.probs - judge.score([RAIN]*20, hyps)).abs().max() < 1e-5


def test_a_device_without_room_for_one_pair_is_an_error_and_no_loop(judge, monkeypatch):
    class Full(Broken):
        def logits(self, pack): raise torch.OutOfMemoryError('no room')
    with pytest.raises(torch.OutOfMemoryError): Full(judge).results([RAIN], [WET])
    monkeypatch.setattr(cli_nli, 'judge_of', lambda name, device=None: Full(judge))
    status, _, err = lab('nli', '-', '--json', stdin=json.dumps(dict(premise=RAIN, hypothesis=WET)))
    assert status == 2
    clear(err, 'no room', '--device cpu')


# ---- files of rows

PAIR = json.dumps(dict(premise=RAIN, hypothesis=WET)).encode()
def pair(**kw): return json.dumps(dict(premise=RAIN, hypothesis=WET) | kw).encode()


# bytes -> for each row its id, with what is wrong with it
FILES = dict(
    bom=(b'\xef\xbb\xbf' + PAIR + b'\n' + PAIR, [('1', ''), ('2', '')]),
    crlf=(PAIR + b'\r\n\r\n' + PAIR + b'\r\n', [('1', ''), ('2', '')]),
    cut=(PAIR + b'\n' + PAIR[:-9], [('1', ''), ('2', 'not JSON')]),
    nul=(PAIR + b'\n' + PAIR[:20] + b'\0' + PAIR[20:] + b'\n' + PAIR, [('1', ''), ('2', 'NUL'), ('3', '')]),
    not_utf8=(PAIR.replace(b'rained', b'r\xe9ined') + b'\n' + PAIR, [('1', 'not UTF-8'), ('2', '')]),
    not_a_number=(pair()[:-1] + b', "x": NaN}\n' + PAIR, [('1', 'NaN'), ('2', '')]),
    infinite=(pair()[:-1] + b', "x": 1e999}\n' + PAIR, [('1', 'too large'), ('2', '')]),
    key_twice=(b'{"premise": "a", "premise": "b", "hypothesis": "c"}\n' + PAIR, [('1', 'stands twice'), ('2', '')]),
    no_object=(b'{"premise": "a", "hypothesis": "a"}\n["a"]\n"a"\n' + PAIR, [('1', ''), ('2', 'object'), ('3', 'object'), ('4', '')]),
    id_twice=(pair(id='a') + b'\n' + pair(id='a') + b'\n' + pair(id='b'), [('a', ''), ('a', 'id of row 1'), ('b', '')]),
    id_of_a_number=(pair(id='2') + b'\n' + PAIR + b'\n' + pair(id=7), [('2', ''), ('row 2', 'has no id'), ('7', '')]),
    number_taken_later=(PAIR + b'\n' + pair(id='1'), [('1', ''), ('1', 'id of row 1')]),
    id_no_text=(pair(id=[1]) + b'\n' + pair(id=None), [('1', 'neither text'), ('2', '')]),
    array=(b'[' + PAIR + b', ' + pair(id='x') + b']', [('1', ''), ('x', '')]),
    csv=(b'premise,hypothesis\nIt rained.,It is wet.\n"a, b",c,d\nx,y\n', [('1', ''), ('2', 'cells'), ('3', '')]),
    gzip=(gzip.compress(PAIR + b'\n' + PAIR), [('1', ''), ('2', '')]),
)


@pytest.mark.parametrize('name', FILES)
def test_a_bad_row_of_a_file_costs_only_itself(nli, judge, name):
    given, want = FILES[name]
    status, rows, err = nli(given)
    assert [r['id'] for r in rows] == [i for i, _ in want]
    for n, (r, (_, why)) in enumerate(zip(rows, want), 1):
        if why: assert why in r['error'] and f'row {n}' in err, (r, err)
        elif name != 'csv' and 'object' not in str(want): assert near(r['probs'].values(), alone(judge, RAIN, WET)), r
    assert status == int(any(why for _, why in want)) and len(rows) == len(want)


@pytest.mark.parametrize('given,why', [(b'', 'is empty'), (b' \n\n', 'is empty'), (b'\xff\xfe{\0', 'UTF-16'), (b'PK\x03\x04', 'zip'),
                                       (b'\x80\x04\x95rest', 'pickle'), (b'just words', 'neither JSON nor a table'), (gzip.compress(PAIR, mtime=0)[:20], 'damaged')])
def test_a_file_that_is_no_rows(nli, given, why):
    status, rows, err = nli(given)
    assert status == 2 and not rows
    clear(err, why, 'standard input')


def test_a_cut_gzip_gives_what_it_had(nli):
    status, rows, err = nli(gzip.compress(b'\n'.join(pair(premise=f'{RAIN} {os.urandom(9).hex()}') for _ in range(400)))[:-3000])
    assert status == 1 and len(rows) > 50 and ['error' in r for r in rows[-2:]] == [False, True] and 'damaged compression' in err


def test_a_line_of_a_hundred_megabytes(nli, judge, tmp_path):
    p = tmp_path/'long.jsonl'
    with open(p, 'wb') as f:
        f.write(PAIR + b'\n{"id": "big", "premise": "')
        for _ in range(100): f.write(b'rain ' * (1 << 18))
        f.write(b'", "hypothesis": "a"}\n' + PAIR + b'\n')
    status, out, err = lab('nli', p, '--json')
    rows = list(map(json.loads, out.splitlines()))
    assert status == 1 and [r['id'] for r in rows] == ['1', 'big', '3'] and '10 MiB' in rows[1]['error'] and len(err) < 2000
    assert near(rows[2]['probs'].values(), alone(judge, RAIN, WET))


# ---- long files

class Endless(io.RawIOBase):
    "Rows without end; counts what was taken of them"
    taken = 0
    def readable(self): return True
    def readinto(self, buffer):
        n = len(buffer)//len(PAIR + b'\n')*len(PAIR + b'\n') or len(buffer)
        buffer[:n] = ((PAIR + b'\n')*(n//len(PAIR) + 1))[:n]
        self.taken += n
        return n


def test_rows_are_answered_before_the_file_is_read(judge):
    "Memory stays flat: answers come although the file has no end"
    f = io.BufferedReader(Endless(), 1 << 16)
    got = cli_nli.answer_stream(f, lambda rows: cli_nli.nli_rows(judge, rows), 50)
    assert [next(got)[1]['id'] for _ in range(120)] == [str(i + 1) for i in range(120)]
    assert f.raw.taken < 32 << 20


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(['a', 'b', '1', '2', None, 7]), max_size=12), st.integers(1, 5), st.integers(1, 40))
def test_every_row_has_one_name_and_windows_lose_none(ids, most, size):
    rows = [({} if i is None else dict(id=i)) | dict(text='x' * (7*n % 30)) for n, i in enumerate(ids)]
    got = list(cli_nli.named(rows))
    good = [i for _, i, r in got if isinstance(r, dict)]
    assert len(set(good)) == len(good) and [n for n, *_ in got] == list(range(1, len(rows) + 1))
    parts = list(cli_nli.windows(iter(got), most, size))
    assert [r for p in parts for r in p] == got and all(0 < len(p) <= most for p in parts)


def test_a_reader_that_goes_away_is_no_error(folder, tmp_path):
    "`reasonlab nli FILE --json | head -1`"
    p = tmp_path/'many.jsonl'
    p.write_bytes(b'\n'.join([PAIR]*20_000))
    python, file, model = (shlex.quote(str(x)) for x in (sys.executable, p, folder)) # the path may have a space
    line = f'{python} -c "from reasonlab.lab.cli import main; main()" nli {file} --json --model {model} | head -1'
    done = subprocess.run(['bash', '-c', line], capture_output=True, timeout=120)
    assert json.loads(done.stdout)['id'] == '1' and b'Traceback' not in done.stderr and b'Broken' not in done.stderr, done.stderr


def test_nothing_is_written_over_what_is_read(tmp_path):
    p, labels = tmp_path/'in.jsonl', tmp_path/'labels.json'
    p.write_bytes(PAIR); labels.write_text('["a", "b"]')
    assert lab('nli', p, '--out', p)[0] == 2 and lab('classify', p, '--labels-file', labels, '--report', labels)[0] == 2
    assert p.read_bytes() == PAIR and labels.read_text() == '["a", "b"]'
    assert lab('nli', p, '--out', tmp_path/'no'/'where.jsonl', '--model', tmp_path)[0] == 2


# ---- invariances

TEXTS = st.text(st.characters(codec='utf-8'), max_size=60) | st.sampled_from([RAIN, WET, 'so ' * 200, '', ' ', 'wet ' * 140])
SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same(a, b, rows=None):
    "Two results agree on numbers, on what was cut, and on which rows have none"
    rows = range(len(a.cut)) if rows is None else rows
    assert [r in a.errors for r in rows] == [i in b.errors for i in range(len(rows))]
    assert [a.cut[r] for r in rows] == b.cut
    assert torch.nan_to_num(a.probs[list(rows)] - b.probs).abs().max() < 1e-5 if len(rows) else True
    assert a.probs[list(rows)].isnan().equal(b.probs.isnan())


@SOME
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8), st.data())
def test_order_and_repetition_change_nothing(judge, pairs, data):
    order = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, max_size=12))
    whole = judge.results(*map(list, zip(*pairs)))
    same(whole, judge.results(*map(list, zip(*(pairs[i] for i in order)))), order)


@SOME
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8), st.integers(1, 400), st.booleans(), st.integers(1, 9))
def test_budget_packing_and_windows_change_nothing(judge, pairs, budget, packs, window):
    whole, was = judge.results(*map(list, zip(*pairs))), (judge.budget, judge.packs)
    judge.budget, judge.packs = budget, packs
    try: other, parts = judge.results(*map(list, zip(*pairs))), list(judge.stream(iter(pairs), window))
    finally: judge.budget, judge.packs = was
    same(whole, other)
    assert ['error' in r for r in parts] == [i in whole.errors for i in range(len(pairs))]
    for i, r in enumerate(parts):
        if 'error' not in r: assert list(r['probs'].values()) == pytest.approx(whole.probs[i].tolist(), abs=1e-5)


# ---- a judge of our own in a folder

@pytest.fixture(params=['lora', 'full'])
def ours(request, tmp_path):
    "A folder as `make_judge` writes it, after three updates, and the judge that is in it"
    from dataclasses import replace
    from types import SimpleNamespace
    from reasonlab.nli import recipe
    from reasonlab.nli.judge import load_adapter
    rows = [dict(set='ours', premise=RAIN, hypothesis=h, label=l) for h, l in zip((WET, 'It was dry.', 'He was late.'), LABELS)]
    short = replace(recipe.RECIPES['smoke'], name=request.param, pairs=24, layers=2, weights=(('ours', 1.),))
    recipe.make_judge(short, tmp_path/'run', tmp_path/'out', SimpleNamespace(train=rows*8, dev=rows))
    return tmp_path/'out', load_adapter(tmp_path/'out', 'cpu')


WEIGHTS = dict(lora='adapter_model.safetensors', full='deltas.safetensors')


def mend(folder, **kw):
    "Another judge.json"
    about = json.loads((folder/'judge.json').read_text()) | kw
    (folder/'judge.json').write_text(json.dumps({k: v for k, v in about.items() if v is not None}))
    return about


def refused(folder, *parts):
    status, out, err = lab('nli', '--model', folder, '-', stdin=json.dumps(dict(premise=RAIN, hypothesis=WET)))
    assert status == 2 and not out
    clear(err, *parts)


def test_a_judge_that_lost_or_found_a_tensor_is_refused(ours):
    "By the tensor's name; what a loader leaves out silently would be another judge. The head, too"
    from safetensors.torch import load_file, save_file
    from reasonlab.nli.judge import load_adapter
    folder, judge = ours
    for name in (WEIGHTS[judge.about['kind']], 'head.safetensors'):
        path = folder/name
        own, sound = load_file(path), path.read_bytes()
        first = sorted(own)[0]
        for edit, said in (({k: v for k, v in own.items() if k != first}, first), (own | {'spare.weight': own[first].clone()}, 'spare.weight'),
                           ({k: v for k, v in own.items() if k != first} | {first + 's': own[first]}, first)):
            save_file(edit, path)
            refused(folder, str(folder), said)
        save_file(own | {first: own[first].flatten()[:1].clone()}, path)
        refused(folder, str(folder))
        path.write_bytes(sound)
    assert torch.equal(load_adapter(folder, 'cpu').score([RAIN], [WET]), judge.score([RAIN], [WET]))


def test_a_full_judge_of_before_is_held_to_its_recipe(ours):
    "Its judge.json names no tensors, but says how many layers moved"
    from safetensors.torch import load_file, save_file
    from reasonlab.nli.judge import load_adapter
    folder, judge = ours
    mend(folder, tensors=None)
    assert torch.equal(load_adapter(folder, 'cpu').score([RAIN], [WET]), judge.score([RAIN], [WET]))
    if judge.about['kind'] == 'lora': return
    assert len(judge.about['tensors']) == 32
    own = load_file(folder/'deltas.safetensors')
    gone = own.pop('encoder.layer.5.output.dense.weight')
    save_file(own, folder/'deltas.safetensors')
    refused(folder, 'lacks 1 tensor (encoder.layer.5.output.dense.weight)')
    save_file(own | {'encoder.layer.5.output.dense.weight': gone, 'encoder.layer.0.output.dense.bias': torch.zeros(384)}, folder/'deltas.safetensors')
    refused(folder, 'has no place for 1 tensor (encoder.layer.0.output.dense.bias)')


def test_a_judge_on_another_encoder_is_refused(ours, tmp_path):
    "By the hash of its weights, where they are another version in the same place; the remedy works"
    from safetensors.torch import load_file, save_file
    from reasonlab.nli.judge import load_adapter
    folder, judge = ours
    home = find_model(DEFAULT)
    assert judge.about['encoder_sha256'] == hashlib.sha256((home/'model.safetensors').read_bytes()).hexdigest()
    mend(folder, encoder_sha256='0' * 64)
    refused(folder, str(folder), DEFAULT, 'not the weights that were promised', 'not 000000000000', '"encoder" in judge.json')
    mine = Path(shutil.copytree(home, tmp_path/'mine', symlinks=False))
    own = load_file(mine/'model.safetensors')
    own['encoder.layer.0.output.dense.bias'] += .01
    (mine/'model.safetensors').unlink()
    save_file(own, mine/'model.safetensors', {'format': 'pt'})
    mend(folder, encoder=str(mine), encoder_sha256=judge.about['encoder_sha256'])
    refused(folder, str(mine), 'not the weights that were promised')
    (mine/'model.safetensors').unlink()
    shutil.copy(home/'model.safetensors', mine/'model.safetensors')
    assert torch.equal(load_adapter(folder, 'cpu').score([RAIN], [WET]), judge.score([RAIN], [WET]))


@pytest.mark.parametrize('kw', [dict(encoder_sha256=3), dict(recipe=[1]), dict(recipe=dict(layers='2')), dict(tensors='all'), dict(tensors=[1])])
def test_a_judge_json_with_nonsense_is_refused(tmp_path, kw):
    (tmp_path/'judge.json').write_text(json.dumps(dict(encoder=DEFAULT, kind='full', temperature=1.) | kw))
    refused(tmp_path, f'judge.json: {next(iter(kw))} is missing or wrong')


def test_no_pairs_give_no_answers(judge):
    from reasonlab.nli.judge import judge as ask
    assert [tuple(ask(*x, judge).probs.shape) for x in (([], 'x'), ('x', []), ([], []), (['x'], []), ('x', ['a', 'b']))] == [(0, 3)]*4 + [(2, 3)]
    with pytest.raises(ValueError, match='they are pairs'): ask(['a', 'b'], [], judge)
