"The commands as a user types them: formats in and out, exit statuses, bad rows"
import csv, gzip, io, json, os, subprocess, sys
import pytest
from reasonlab.core import asset

GOOD = dict(question='Ann has 3 boxes of 12 pens. How many pens?', answer='3 * 12 = 36\nThe answer is 36.')
BAD = dict(question=GOOD['question'], answer='3 * 12 = 38\nThe answer is 38.')


def lab(*args, stdin=None, env=None):
    "Run `reasonlab` in a process of its own"
    return subprocess.run([sys.executable, '-c', 'from reasonlab.lab.cli import main; main()', *map(str, args)],
                          input=stdin, capture_output=True, env={**os.environ, **(env or {})}, timeout=120)


def rows_of(done): return [json.loads(l) for l in done.stdout.decode().splitlines()]


def as_csv(rows, delimiter=','):
    out = io.StringIO()
    w = csv.DictWriter(out, ['question', 'answer'], delimiter=delimiter)
    w.writeheader(); w.writerows(rows)
    return out.getvalue().encode()


FORMATS = {
    'rows.jsonl': lambda r: '\n'.join(map(json.dumps, r)).encode(),
    'rows.json': lambda r: json.dumps(r, indent=1).encode(),
    'rows.csv': as_csv,
    'rows.tsv': lambda r: as_csv(r, '\t'),
    'rows.jsonl.gz': lambda r: gzip.compress('\n'.join(map(json.dumps, r)).encode()),
    'rows.csv.gz': lambda r: gzip.compress(as_csv(r)),
}


@pytest.mark.parametrize('name', FORMATS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    p = tmp_path/name
    p.write_bytes(FORMATS[name]([GOOD, BAD]))
    done = lab('verify', p, '--json')
    assert done.returncode == 0, done.stderr
    got = rows_of(done)
    assert [r['id'] for r in got] == ['1', '2'] and {r['schema'] for r in got} == {1}
    assert [r['verdict'] for r in got] == ['supported', 'refuted']
    assert got[1]['first_error'] == '1' and got[1]['score'] < .5 < got[0]['score']


def test_standard_input_out_and_report(tmp_path):
    text = '\n'.join(map(json.dumps, [GOOD, BAD])).encode()
    out, page = tmp_path/'out.jsonl', tmp_path/'deep'/'page.html'
    done = lab('verify', '-', '--json', '--out', out, '--report', page, stdin=text)
    assert done.returncode == 0 and not done.stdout, done.stderr
    assert len(out.read_text().splitlines()) == 2 and '<html' in page.read_text()


def test_exit_statuses(tmp_path):
    bad, mixed, empty = tmp_path/'bad.jsonl', tmp_path/'mixed.jsonl', tmp_path/'empty.jsonl'
    bad.write_text(json.dumps(BAD)); empty.write_text('')
    mixed.write_text(json.dumps(GOOD) + '\nnot json\n' + json.dumps({'question': 'q', 'id': 'x'}) + '\n')
    assert lab('verify', bad).returncode == 0
    assert lab('verify', bad, '--fail-on', 'refuted').returncode == 3
    done = lab('verify', mixed, '--json')
    assert done.returncode == 1 and b'row 2' in done.stderr and b'row 3' in done.stderr
    assert [set(r) for r in rows_of(done)[1:]] == [{'schema', 'id', 'error'}] * 2
    assert rows_of(done)[2]['id'] == 'x' and rows_of(done)[0]['verdict'] == 'supported'
    for args in (['verify', empty], ['verify', tmp_path/'none.jsonl'], ['verify'], ['nonsense'],
                 ['verify', bad, '--fail-on', 'nonsense'], ['reproduce', 'nonsense'], ['data', 'get', 'nonsense']):
        done = lab(*args)
        assert done.returncode == 2 and done.stderr.strip() and b'Traceback' not in done.stderr, args


def test_help_and_example_teach(tmp_path):
    for args in (['--help'], ['verify', '--help'], ['demo', '--help'], ['reproduce', '--help'], ['data', '--help']):
        assert lab(*args).returncode == 0
    done = lab('verify', '--example')
    p = tmp_path/'chains.jsonl'
    p.write_bytes(done.stdout)
    assert done.stdout == asset('demo.jsonl').read_bytes() and lab('verify', p).returncode == 0


def test_spans_and_steps_of_a_list(tmp_path):
    answer = ['We count.', '', '3 * 12 = 38', 'So the answer is 38.']
    p = tmp_path/'list.jsonl'
    p.write_text(json.dumps(dict(question=GOOD['question'], answer=answer)) + '\n')
    (row,) = rows_of(lab('verify', p, '--json'))
    assert [s['label'] for s in row['steps']] == ['1', '2', '3', '4'] and row['first_error'] == '3'
    for s, text in zip(row['steps'], answer):
        assert 0 <= s['start'] <= s['end'] <= len(text)
        assert {'label', 'start', 'end', 'verdict', 'checks'} == set(s)
        for c in s['checks']:
            assert {'kind', 'verdict', 'span', 'why', 'certificate'} == set(c)
            assert (c['verdict'] == 'refuted') == (c['certificate'] is not None)
            assert c['span'] is None or 0 <= c['span'][0] <= c['span'][1] <= len(text)
    want = {'schema', 'id', 'verdict', 'score', 'coverage', 'first_error', 'steps', 'checks', 'unparsed'}
    assert set(row) == want


def test_odd_text_does_not_stop_a_batch(tmp_path):
    odd = ['', ' ', '\x00', '\ud800', '9**9**9 = 1', '(' * 5000, '= ' * 3000, 'a' * 100_000, '\u202e 2 + 2 = 5', '٣ + ٤ = ٨']
    p = tmp_path/'odd.jsonl'
    p.write_text('\n'.join(json.dumps(dict(question='q', answer=t)) for t in odd) + '\n')
    done = lab('verify', p, '--json', '--report', tmp_path/'odd.html')
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(rows_of(done)) == len(odd)


def test_settings_from_the_environment():
    done = lab('settings', '--json', env={'REASONLAB_SEED': '41'})
    assert rows_of(done)[0]['seed'] == 41
    done = lab('settings', env={'REASONLAB_SEED': 'many'})
    assert done.returncode == 2 and b'REASONLAB' in done.stderr or b'environment' in done.stderr


def test_the_front_needs_no_torch():
    code = ("import sys\nclass No:\n def find_spec(self, name, *a):\n  if name.split('.')[0] in ('torch', 'transformers', "
            "'datasets', 'z3', 'clingo', 'nbdev', 'IPython'): raise ImportError(name)\nsys.meta_path.insert(0, No())\n"
            "from reasonlab.lab.cli import main\nsys.argv = ['reasonlab', 'demo', '--no-open', '--report', sys.argv[1]]\nmain()")
    import tempfile
    with tempfile.TemporaryDirectory() as d:
        done = subprocess.run([sys.executable, '-c', code, f'{d}/demo.html'], capture_output=True, timeout=120)
    assert done.returncode == 0 and b'refuted' in done.stdout, done.stderr[-2000:]
