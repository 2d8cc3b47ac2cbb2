"Hostile and broken files: each fault is one clear error with file, row and remedy, and the rest of a batch goes on"
import contextlib
import gzip
import http.server
import io
import json
import os
import pickle
import random
import shutil
import socket
import stat
import struct
import tarfile
import threading
import time
import tracemalloc
import zipfile
from collections import Counter
from email.utils import formatdate

import pytest

from reasonlab import data, files
from reasonlab.files import BadFile, BadRow, check_safetensors, identified, read_rows, unpack
from test_cli import GOOD, lab, rows_of

LINE = json.dumps(GOOD).encode()


def one_line(message, *parts):
    "A message for a person: one printable line that holds what it must"
    assert message.isprintable() and len(message) < 400, message
    for p in parts: assert p in message, (p, message)


# ---- rows

ROWS = dict(
    not_utf8=(b'{"question": "\xe9", "answer": "1 = 1"}', 'not UTF-8'),
    cut_utf8=('{"question": "é'.encode()[:-1], 'not UTF-8'),
    nul=(b'{"question": "a\0b", "answer": "1 = 1"}', 'NUL'),
    only_nul=(b'\0\0\0\0', 'NUL'),
    nan=(b'{"question": "", "answer": "1 = 1", "x": NaN}', 'NaN'),
    infinity=(b'{"question": "", "answer": "1 = 1", "x": [-Infinity]}', '-Infinity'),
    hidden_infinity=(b'{"question": "", "answer": "1 = 1", "x": 1e999}', '1e999'),
    long_number=(b'{"question": "", "answer": "1 = 1", "x": ' + b'9' * 5000 + b'}', '5000 digits'),
    duplicate_key=(b'{"question": "", "answer": "2 + 2 = 4", "answer": "2 + 2 = 5"}', "'answer' stands twice"),
    nested_duplicate=(b'{"question": "", "answer": "1 = 1", "x": {"a\\n": 1, "a\\n": 2}}', r"'a\n' stands twice"),
    no_object=(b'["question", "answer"]', 'not a list'),
    number=(b'7', 'not a number'),
    cut_off=(b'{"question": "", "answer": "1 =', 'not JSON'),
    two_on_a_line=(LINE + LINE, 'not JSON'),
    deep=(b'{"a": ' * 100_000, 'nested too deeply'),
    html=(b'<html>', 'not JSON'),
)


@pytest.mark.parametrize('name', ROWS)
def test_a_bad_line_costs_one_row(tmp_path, name):
    bad, why = ROWS[name]
    p = tmp_path/'rows.jsonl'
    p.write_bytes(b'\n'.join([LINE, b'', bad, LINE]) + b'\n')
    first, second, third = read_rows(p)
    assert first == third == GOOD
    assert isinstance(second, BadRow) and (second.number, second.line) == (2, 3) and ';' in second.error, second
    one_line(str(second), f'{p}, row 2 (line 3): ', why)


def test_bad_lines_in_the_command(tmp_path):
    "Every bad row is named once on standard error, with file, line and remedy; the good rows are answered"
    p = tmp_path/'rows.jsonl'
    p.write_bytes(b'\n'.join([LINE, *(bad for bad, _ in ROWS.values()), LINE]))
    done = lab('verify', p, '--json')
    assert done.returncode == 1 and b'Traceback' not in done.stderr, done.stderr[-2000:]
    got, said = rows_of(done), done.stderr.decode().splitlines()
    assert [('error' in r) for r in got] == [False, *[True] * len(ROWS), False]
    assert got[0]['verdict'] == got[-1]['verdict'] == 'supported' and len(said) == len(ROWS), said
    for n, (line, (_, why)) in enumerate(zip(said, ROWS.values()), 2): one_line(line, f'{p}, row {n} (line {n}) (id {n}): ', why, ';')


TABLES = dict(
    too_many=(b'q,3 * 12 = 36,x', '3 cells for 2 columns'),
    too_few=(b'q', '1 cells for 2 columns'),
    not_utf8=(b'\xe9,3 * 12 = 36', 'not UTF-8'),
    nul=(b'a\0,3 * 12 = 36', 'NUL'),
    torn_quote=(b'"a"b,3 * 12 = 36', 'not CSV'),
    return_inside=(b'a\rb,3 * 12 = 36', 'not CSV'),
)


@pytest.mark.parametrize('name', TABLES)
def test_a_bad_row_of_a_table(tmp_path, name):
    bad, why = TABLES[name]
    p = tmp_path/'rows.csv'
    p.write_bytes(b'\r\n'.join([b'question,answer', b'"How, and\nwhy?",3 * 12 = 36', bad, b'', b'q,3 * 12 = 36']) + b'\r\n')
    first, second, third = read_rows(p)
    assert first['question'] == 'How, and\nwhy?' and third == dict(question='q', answer='3 * 12 = 36')
    assert isinstance(second, BadRow) and (second.number, second.line) == (2, 4)
    one_line(str(second), f'{p}, row 2 (line 4): ', why, ';')


def test_a_table_in_the_command(tmp_path):
    p = tmp_path/'rows.csv'
    p.write_bytes(b'question,answer\n' + b'\n'.join([b'q,3 * 12 = 36', *(bad for bad, _ in TABLES.values()), b'q,3 * 12 = 38']))
    done = lab('verify', p, '--json')
    got = rows_of(done)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == len(TABLES), done.stderr
    assert [r.get('verdict') for r in got] == ['supported', *[None] * len(TABLES), 'refuted']


@pytest.mark.parametrize('text,why', [
    (b'question,answer,question\nq,a,q\n', 'stands twice'), (b'qu\xe9stion,answer\nq,a\n', 'header is not UTF-8'),
    (b'quest\0ion,answer\nq,a\n', 'its header holds a NUL byte'),
    (b'a,' * 2000 + b'b\n', 'columns'), (b'question,answer\n"q,a\nq,a\n', 'never closed'), (b'hello\n', 'neither JSON nor a table')])
def test_a_bad_header_or_an_open_quote_spoils_a_table(tmp_path, text, why):
    p = tmp_path/'rows.csv'
    p.write_bytes(text)
    with pytest.raises(BadFile) as e: list(read_rows(p))
    one_line(str(e.value), str(p), why, ';')


def test_an_open_quote_takes_only_what_follows(tmp_path):
    p = tmp_path/'rows.csv'
    p.write_bytes(b'question,answer\nq,a\n"q,a\nq,a\n')
    good, bad = read_rows(p)
    assert good == dict(question='q', answer='a')
    one_line(str(bad), f'{p}, row 2: ', 'never closed', 'what follows it is lost')


ARRAYS = dict(nan=(b'{"a": NaN}', 'NaN'), duplicate=(b'{"a": 1, "a": 2}', 'twice'), not_utf8=(b'{"a": "\xe9"}', 'not UTF-8'), no_object=(b'7', 'not a number'))


@pytest.mark.parametrize('name', ARRAYS)
def test_a_bad_value_of_an_array(tmp_path, name):
    bad, why = ARRAYS[name]
    p = tmp_path/'rows.json'
    p.write_bytes(b'[' + b', '.join([LINE, bad, LINE]) + b']')
    first, second, third = read_rows(p)
    assert first == third == GOOD
    one_line(str(second), f'{p}, row 2: ', why, ';')


@pytest.mark.parametrize('end', [b', {"a": ', b'', b'}', b', ]', b'] []', b' {"a": 1}]'], ids=ascii)
def test_an_array_that_does_not_fit_together(tmp_path, end):
    "What can be told apart is read; the place is named"
    p = tmp_path/'rows.json'
    p.write_bytes(b'[' + LINE + end)
    good, bad = read_rows(p)
    assert good == GOOD
    one_line(str(bad), f'{p}, row 2: not JSON', ';')


@pytest.mark.parametrize('bom', [b'', b'\xef\xbb\xbf'])
@pytest.mark.parametrize('end', [b'\n', b'\r\n'])
@pytest.mark.parametrize('name', ['rows.jsonl', 'rows.csv', 'rows.json', 'rows.jsonl.gz'])
def test_byte_order_mark_and_line_ends(tmp_path, bom, end, name):
    rows = {'jsonl': [LINE, b'', LINE], 'csv': [b'question,answer', b'"a, b",c', b'"a, b",c'], 'json': [b'[', LINE, b',', LINE, b']']}
    blob = bom + end.join(rows[name.split('.')[1]]) + end
    p = tmp_path/name
    p.write_bytes(gzip.compress(blob) if name.endswith('gz') else blob)
    got = list(read_rows(p))
    assert len(got) == 2 and got[0] == got[1] and set(got[0]) == {'question', 'answer'}


def test_joined_files_with_byte_order_marks(tmp_path):
    p = tmp_path/'rows.jsonl'
    p.write_bytes((b'\xef\xbb\xbf' + LINE + b'\n') * 2)
    assert list(read_rows(p)) == [GOOD, GOOD]


def test_lone_surrogates_are_text(tmp_path):
    "JSON can write half a character; it is read, checked and written again"
    p = tmp_path/'rows.jsonl'
    p.write_text(json.dumps(dict(id='\ud800', question='\udfff', answer='\ud83d 3 * 12 = 36')) + '\n')
    (row,) = read_rows(p)
    assert row['answer'][0] == '\ud83d'
    done = lab('verify', p, '--json')
    assert done.returncode == 0, done.stderr
    assert rows_of(done)[0]['id'] == '\ud800' and rows_of(done)[0]['verdict'] != 'refuted'


def test_no_message_carries_control_characters(tmp_path):
    "What a stranger wrote cannot forge a second message or steer the terminal"
    p = tmp_path/'rows.jsonl'
    p.write_text(json.dumps({'id': 'x\x1b[2J\nrow 9: fine \u202e', 'question': 1}) + '\n' + json.dumps({'\x1b[31m': 1})[:-1] + ', "\\u001b[31m": 2}\n')
    done = lab('verify', p, '--json')
    said = done.stderr.decode().splitlines()
    assert done.returncode == 1 and len(said) == 2 and all(map(str.isprintable, said)), said


WHOLE = dict(
    empty=(b'', 'is empty'), blank=(b' \r\n\t\n' * 9, 'is empty'), utf16=('\ufeff{"a": 1}'.encode('utf-16-le'), 'UTF-16'),
    utf16_bare=('{"a": 1}'.encode('utf-16-le'), 'UTF-16'), zip=(b'PK\x03\x04' + bytes(50), 'zip'), page=(b'<!DOCTYPE html><p>log in', 'web page'),
    pickle=(pickle.dumps(dict(a=1)), 'pickle'), lfs=(b'version https://git-lfs.github.com/spec/v1\n', 'LFS'),
    header_only_gzip=(gzip.compress(LINE)[:12], 'damaged compression'), broken_gzip=(gzip.compress(LINE)[:15] + b'\xff' * 20, 'damaged compression'),
    bomb=(gzip.compress(b'[' + b' ' * (60 << 20)), 'bomb'))


@pytest.mark.parametrize('name', WHOLE)
def test_a_file_that_is_no_rows(tmp_path, name):
    blob, why = WHOLE[name]
    p = tmp_path/'rows.jsonl'
    p.write_bytes(blob)
    with pytest.raises(BadFile) as e: list(read_rows(p))
    one_line(str(e.value), f'{p}: ', why, ';')


@pytest.mark.parametrize('name', ['empty', 'utf16', 'broken_gzip', 'bomb', None])
def test_a_file_that_is_no_rows_in_the_command(tmp_path, name):
    p = tmp_path/'rows.jsonl'
    if name: p.write_bytes(WHOLE[name][0])
    else: p.mkdir()
    done = lab('verify', p, '--json')
    assert done.returncode == 2 and not done.stdout and len(done.stderr.splitlines()) == 1
    one_line(done.stderr.decode().strip(), str(p))


def test_truncated_gzip_gives_what_it_had(tmp_path):
    rows = [dict(GOOD, id=os.urandom(8).hex()) for _ in range(3000)]
    p = tmp_path/'rows.jsonl.gz'
    whole = gzip.compress('\n'.join(map(json.dumps, rows)).encode())
    p.write_bytes(whole[:len(whole) // 2])
    *good, bad = read_rows(p)
    assert 500 < len(good) < 3000 and good == rows[:len(good)]
    one_line(str(bad), f'{p}, row {len(good) + 1}: damaged compression', 'what follows it is lost')
    array = tmp_path/'rows.json.gz'
    array.write_bytes(gzip.compress(json.dumps(rows).encode())[:len(whole) // 2])
    *good, bad = read_rows(array)
    assert good == rows[:len(good)] and len(good) > 500 and 'damaged compression' in bad.error


def test_truncated_gzip_in_the_command(tmp_path):
    rows = [dict(GOOD, id=str(i), note=os.urandom(2000).hex()) for i in range(20)]
    p = tmp_path/'rows.jsonl.gz'
    p.write_bytes(gzip.compress('\n'.join(map(json.dumps, rows)).encode())[:25_000])
    done = lab('verify', p, '--json')
    got = rows_of(done)
    assert done.returncode == 1 and len(got) > 5 and {r['verdict'] for r in got[:-1]} == {'supported'}
    one_line(done.stderr.decode().strip(), f'{p}, row {len(got)}', 'damaged compression')


LONG = 100 << 20  # a hundred megabytes


def long_line(path, begin, end):
    with open(path, 'wb') as f:
        f.write(begin)
        for _ in range(LONG >> 20): f.write(b'x' * (1 << 20))
        f.write(end)
    return path


@pytest.mark.parametrize('name,begin,end', [
    ('rows.jsonl', LINE + b'\n{"id": "long", "question": "', b'", "answer": "1 = 1"}\n' + LINE + b'\n'),
    ('rows.csv', b'question,answer\nq,a\n"', b'\n", 1 = 1\nq,a\n')])
def test_a_line_of_a_hundred_megabytes(tmp_path, name, begin, end):
    "Passed over in bounded memory; the rows around it are read"
    p = long_line(tmp_path/name, begin, end)
    tracemalloc.start()
    try: rows, (_, peak) = list(read_rows(p)), tracemalloc.get_traced_memory()
    finally: tracemalloc.stop()
    assert [isinstance(r, BadRow) for r in rows] == [False, True, False] and rows[0] == rows[2]
    assert peak < 4 * files.MAX_LINE, f'{peak >> 20} MiB'
    one_line(str(rows[1]), f'{p}, row 2 (line ', 'longer than 10 MiB', ';')


def test_a_line_of_a_hundred_megabytes_in_the_command(tmp_path):
    p = long_line(tmp_path/'rows.jsonl', LINE + b'\n{"id": "long", "question": "', b'", "answer": "1 = 1"}\n' + LINE + b'\n')
    done = lab('verify', p, '--json')
    assert done.returncode == 1 and [r['id'] for r in rows_of(done)] == ['1', 'long', '3']
    one_line(done.stderr.decode().strip(), f'{p}, row 2 (line 2) (id long): longer than')


def test_ids_twice_and_none(tmp_path):
    rows = [dict(GOOD, id='a'), GOOD, dict(GOOD, id='a'), dict(GOOD, id='5'), GOOD, dict(GOOD, id=7), dict(GOOD, id='7'), dict(GOOD, id=None),
            dict(GOOD, id=[1])]
    want = [None, None, 'has the id of row 1', None, 'its number is the id of row 4', None, 'has the id of row 6', None, 'neither text nor a number']
    named = identified(rows)
    assert [n for n, _, _ in named] == [*range(1, 10)]
    for (_, _, row), why in zip(named, want):
        if why is None: assert row in rows
        else: one_line(row.error, why, ';')
    sound = [i for _, i, r in named if not isinstance(r, BadRow)]
    assert sound == ['a', '2', '5', '7', '8'] and len(set(sound)) == len(sound)
    p = tmp_path/'rows.jsonl'
    p.write_text('\n'.join(map(json.dumps, rows)))
    done = lab('verify', p, '--json')
    got = rows_of(done)
    assert done.returncode == 1 and ['error' in r for r in got] == [w is not None for w in want]
    for line, (n, why) in zip(done.stderr.decode().splitlines(), [(n, w) for n, w in enumerate(want, 1) if w], strict=True):
        one_line(line, f'{p}, row {n} (id ', why)


def test_a_bad_row_takes_no_name_from_a_good_one(tmp_path):
    p = tmp_path/'rows.jsonl'
    p.write_bytes(b'not json\n' + json.dumps(dict(GOOD, id='1')).encode())
    assert [(i, isinstance(r, BadRow)) for _, i, r in identified(read_rows(p))] == [('row 1', True), ('1', False)]


# ---- archives

def tarred(path, *members, mode='w'):
    "A tar file of (name, type, data or link)"
    with tarfile.open(path, mode) as t:
        for name, kind, body in members:
            i = tarfile.TarInfo(name)
            i.type, i.mode = kind, 0o6777
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE): i.linkname = body
            elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE): i.devmajor, i.devminor = 1, 5
            else: i.size = len(body)
            t.addfile(i, io.BytesIO(body) if kind == tarfile.REGTYPE else None)
    return path


def zipped(path, *members, mode=0):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, body in members:
            i = zipfile.ZipInfo(name)
            i.external_attr, i.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            with pytest.warns(UserWarning) if name in z.namelist() else contextlib.nullcontext(): z.writestr(i, body)
    return path


FILE = tarfile.REGTYPE
GOOD_MEMBER = ('good.txt', FILE, b'good')


def lying_zip(path):
    "A member that claims ten bytes and holds many"
    zipped(path, ('a', bytes(5 << 20)))
    blob = bytearray(path.read_bytes())
    for mark, offset in ((b'PK\x03\x04', 22), (b'PK\x01\x02', 24)):
        at = blob.index(mark) + offset
        blob[at:at + 4] = struct.pack('<I', 10)
    path.write_bytes(blob)
    return path


def changed(path, edit):
    path.write_bytes(edit(path.read_bytes()))
    return path


def sparse(path):
    "GNU sparse: 512 bytes that claim to be ten gigabytes"
    i = tarfile.TarInfo('a')
    i.type, i.size = tarfile.GNUTYPE_SPARSE, 512
    head = bytearray(i.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b'00000000000\0' + b'00000001000\0'
    head[483:495] = b'%011o\0' % (10 << 30)
    head[148:156] = b' ' * 8
    head[148:156] = b'%06o\0 ' % sum(head)
    path.write_bytes(bytes(head) + bytes(512) + bytes(1024))
    return path


ARCHIVES = {
    'tar traversal': (lambda p: tarred(p, GOOD_MEMBER, ('../out', FILE, b'')), 'out of the folder'),
    'tar deep traversal': (lambda p: tarred(p, ('a/../../out', FILE, b'')), 'out of the folder'),
    'tar absolute': (lambda p: tarred(p, (f'{p.parent}/out', FILE, b'')), 'absolute'),
    'tar drive': (lambda p: tarred(p, ('C:out', FILE, b'')), 'drive'),
    'tar backslash': (lambda p: tarred(p, ('..\\out', FILE, b'')), 'backslash'),
    'tar symlink': (lambda p: tarred(p, ('link', tarfile.SYMTYPE, '..'), ('link/out', FILE, b'')), 'symbolic link'),
    'tar hard link': (lambda p: tarred(p, GOOD_MEMBER, ('link', tarfile.LNKTYPE, 'good.txt')), 'hard link'),
    'tar device': (lambda p: tarred(p, GOOD_MEMBER, ('null', tarfile.CHRTYPE, b'')), 'device'),
    'tar block device': (lambda p: tarred(p, ('disk', tarfile.BLKTYPE, b'')), 'device'),
    'tar pipe': (lambda p: tarred(p, ('pipe', tarfile.FIFOTYPE, b'')), 'pipe'),
    'tar sparse': (sparse, 'holes'),
    'tar twice': (lambda p: tarred(p, GOOD_MEMBER, GOOD_MEMBER), 'twice'),
    'tar twice by case': (lambda p: tarred(p, ('A/b', FILE, b''), ('a/B', FILE, b'')), 'twice'),
    'tar twice by accent': (lambda p: tarred(p, ('\xe9', FILE, b''), ('e\u0301', FILE, b'')), 'twice'),
    'tar file as folder': (lambda p: tarred(p, ('a', FILE, b''), ('a/b', FILE, b'')), 'cannot be unpacked'),
    'tar many': (lambda p: tarred(p, *((str(i), FILE, b'') for i in range(101))), 'more than 100 members'),
    'tar much': (lambda p: tarred(p, *((str(i), FILE, os.urandom(1 << 20)) for i in range(33))), 'more than 32 MiB'),
    'tar.gz bomb': (lambda p: tarred(p, ('a', FILE, bytes(30 << 20)), mode='w:gz'), 'bomb'),
    'tar.xz bomb': (lambda p: tarred(p, ('a', FILE, bytes(30 << 20)), mode='w:xz'), 'bomb'),
    'tar.bz2 bomb': (lambda p: tarred(p, ('a', FILE, bytes(30 << 20)), mode='w:bz2'), 'bomb'),
    'tar cut': (lambda p: changed(tarred(p, GOOD_MEMBER, ('b', FILE, b'b' * 5000)), lambda b: b[:3000]), 'damaged'),
    'tar cut between members': (lambda p: changed(tarred(p, GOOD_MEMBER, GOOD_MEMBER), lambda b: b[:1024 - 100] + b'x' * 100), 'cut off'),
    'tar.gz cut': (lambda p: changed(tarred(p, ('a', FILE, os.urandom(9000)), mode='w:gz'), lambda b: b[:5000]), 'damaged'),
    'tar.gz broken': (lambda p: changed(tarred(p, ('a', FILE, b'a' * 9000), mode='w:gz'), lambda b: b[:30] + b'\xff' * 20 + b[50:]), 'damaged'),
    'zip traversal': (lambda p: zipped(p, ('good.txt', b'good'), ('../out', b'')), 'out of the folder'),
    'zip absolute': (lambda p: zipped(p, (f'{p.parent}/out', b'')), 'absolute'),
    'zip drive': (lambda p: zipped(p, ('C:/out', b'')), 'drive'),
    'zip backslash': (lambda p: zipped(p, ('a\\..\\..\\out', b'')), 'backslash'),
    'zip symlink': (lambda p: zipped(p, ('link', b'..'), mode=stat.S_IFLNK | 0o777), 'symbolic link'),
    'zip device': (lambda p: zipped(p, ('null', b''), mode=stat.S_IFCHR), 'device'),
    'zip pipe': (lambda p: zipped(p, ('pipe', b''), mode=stat.S_IFIFO), 'device'),
    'zip twice': (lambda p: zipped(p, ('a', b'1'), ('a', b'2')), 'twice'),
    'zip many': (lambda p: zipped(p, *((str(i), b'') for i in range(101))), 'more than 100 members'),
    'zip much': (lambda p: zipped(p, *((str(i), os.urandom(1 << 20)) for i in range(33))), 'more than 32 MiB'),
    'zip bomb': (lambda p: zipped(p, ('good.txt', b'good'), ('zeros', bytes(30 << 20))), 'bomb'),
    'zip of many small bombs': (lambda p: zipped(p, *((str(i), bytes(1 << 20)) for i in range(30))), 'bomb'),
    'zip that lies about a size': (lying_zip, 'damaged'),
    'zip cut': (lambda p: changed(zipped(p, ('a', b'a' * 99)), lambda b: b[:-10]), 'damaged'),
    'zip encrypted': (lambda p: changed(zipped(p, ('a', b'a')), lambda b: b.replace(b'PK\x01\x02\x14\x03\x14\x00\x00', b'PK\x01\x02\x14\x03\x14\x00\x01')), 'encrypted'),
    'no archive': (lambda p: changed(tarred(p), lambda b: b'hello'), 'neither zip nor tar'),
    'nothing': (lambda p: changed(tarred(p), lambda b: b''), 'neither zip nor tar'),
}


@pytest.mark.parametrize('name', ARCHIVES)
def test_a_hostile_archive(tmp_path, name):
    "One error with archive and member; nothing is written, inside or outside"
    make, why = ARCHIVES[name]
    (tmp_path/'home').mkdir()
    p = make(tmp_path/'home'/'x.bin')
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(BadFile) as e: unpack(p, tmp_path/'home'/'new', most_members=100, most_bytes=32 << 20)
    one_line(str(e.value), f'{p}: ', why, 'nothing was unpacked')
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('mode', ['w', 'w:gz', 'w:bz2', 'w:xz', 'zip'])
def test_a_sound_archive(tmp_path, mode):
    p, body = tmp_path/'x.bin', os.urandom(100_000)
    if mode == 'zip': zipped(p, ('sub/', b''), ('sub/a.bin', body), ('b.txt', b'b'))
    else: tarred(p, ('./sub', tarfile.DIRTYPE, b''), ('./sub/a.bin', FILE, body), ('b.txt', FILE, b'b'), mode=mode)
    got = unpack(p, tmp_path/'deep'/'new')
    assert [q.relative_to(tmp_path/'deep'/'new').as_posix() for q in got] == ['sub/a.bin', 'b.txt']
    assert [q.read_bytes() for q in got] == [body, b'b'] and [q.name for q in (tmp_path/'deep').iterdir()] == ['new']
    assert not any(q.stat().st_mode & 0o7111 for q in got), 'no set-uid, nothing to execute'
    with pytest.raises(BadFile, match='not empty'): unpack(p, tmp_path/'deep'/'new')
    assert got[1].read_bytes() == b'b'


def test_an_archive_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    p = zipped(tmp_path/'x.zip', ('a', b'a'), ('b', b'b'))
    real, seen = files._write, []
    def stops(*args):
        seen.append(args)
        if len(seen) == 2: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(files, '_write', stops)
    with pytest.raises(KeyboardInterrupt): unpack(p, tmp_path/'new')
    assert [q.name for q in tmp_path.iterdir()] == ['x.zip'] and len(seen) == 2


# ---- weights

def weights(header, body=b'', length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + body


def entry(a, b, dtype='F32', shape=None): return dict(dtype=dtype, shape=[(b - a) // 4] if shape is None else shape, data_offsets=[a, b])


class Payload:
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return open, (self.path, 'w')


@pytest.fixture
def loader():
    "Every way in which the lab opens weights"
    ways = [check_safetensors]
    with contextlib.suppress(ImportError):
        import torch
        from reasonlab.models.train import Sampler, load_checkpoint
        net = torch.nn.Linear(1, 1)
        ways.append(lambda p: load_checkpoint(p, net, torch.optim.AdamW(net.parameters()), Sampler(8, 2, 0), {}))
    return ways


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_does_not_run(tmp_path, loader, protocol):
    "Its payload would make a file; the twin shows that it does"
    p, done = tmp_path/'model.safetensors', tmp_path/'harm'
    pickle.loads(pickle.dumps(Payload(tmp_path/'twin'), protocol)).close()  # noqa: S301
    assert (tmp_path/'twin').exists()
    p.write_bytes(pickle.dumps(Payload(done), protocol) + bytes(99))
    for load in loader:
        with pytest.raises(BadFile) as e: load(p)
        one_line(str(e.value), f'{p}: is a pickle', ';')
    assert not done.exists()


def test_torch_files_are_named_as_such(tmp_path, loader):
    torch = pytest.importorskip('torch', reason='the extra [models] is not installed')
    p = tmp_path/'model.safetensors'
    for new, why in ((True, 'zip archive, as torch.save'), (False, 'is a pickle')):
        torch.save({'a': torch.zeros(1)}, p, _use_new_zipfile_serialization=new)
        for load in loader:
            with pytest.raises(BadFile) as e: load(p)
            one_line(str(e.value), f'{p}: ', why, ';')


WEIGHTS = dict(
    overlap=(weights({'a': entry(0, 8), 'b': entry(4, 12)}, bytes(12)), "'b' overlaps"),
    same_place=(weights({'a': entry(0, 4), 'b': entry(0, 4)}, bytes(4)), 'overlaps'),
    gap=(weights({'a': entry(0, 4), 'b': entry(8, 12)}, bytes(12)), 'belong to none'),
    late_start=(weights({'a': entry(4, 8)}, bytes(8)), 'belong to none'),
    beyond_the_end=(weights({'a': entry(0, 400)}, bytes(4)), 'take 400 bytes'),
    hidden_tail=(weights({'a': entry(0, 4)}, b'MZ' * 9), 'hidden'),
    backwards=(weights({'a': entry(4, 0, shape=[1])}, bytes(4)), 'not its shape'),
    negative=(weights({'a': entry(-4, 0, shape=[1])}, bytes(4)), 'place'),
    wrong_shape=(weights({'a': entry(0, 4, shape=[1 << 62, 1 << 62])}, bytes(4)), 'not its shape'),
    negative_shape=(weights({'a': entry(0, 4, shape=[-1, -1])}, bytes(4)), 'shape'),
    true_shape=(weights({'a': entry(0, 4, shape=[True])}, bytes(4)), 'shape'),
    float_shape=(weights({'a': entry(0, 4, shape=[1.0])}, bytes(4)), 'shape'),
    unknown_type=(weights({'a': entry(0, 4, 'OBJECT')}, bytes(4)), 'unknown type'),
    type_no_text=(weights({'a': entry(0, 4, [])}, bytes(4)), 'unknown type'),
    no_entry=(weights({'a': 1}), 'fields'),
    more_fields=(weights({'a': entry(0, 4) | dict(code='x')}, bytes(4)), 'fields'),
    metadata=(weights({'__metadata__': {'a': 1}}), 'metadata'),
    twice=(weights(b'{"a":' + json.dumps(entry(0, 4)).encode() + b',"a":' + json.dumps(entry(0, 4)).encode() + b'}', bytes(4)), 'twice'),
    long_header=(weights({'a': entry(0, 4)}, bytes(4), 1 << 40), 'header claims'),
    longest_header=(weights({'a': entry(0, 4)}, bytes(4), (1 << 64) - 1), 'header claims'),
    short_header=(weights({'a': entry(0, 4)}, bytes(4), 20), 'not JSON'),
    cut=(weights({'a': entry(0, 4000)}, bytes(4000))[:1000], 'take 4000 bytes'),
    cut_header=(weights({'a': entry(0, 4000)}, bytes(4000))[:30], 'header claims'),
    no_json=(weights(b'{a: 1}', bytes(4)), 'not JSON'),
    no_utf8=(weights(b'{"\xe9": 1}', bytes(4)), 'not JSON'),
    array=(weights(b'[1, 2, 3]', bytes(4)), 'no header'),
    empty=(b'', 'no header'), page=(b'<!DOCTYPE html>', 'no header'), control=(weights({'\x1b[2J\n': 1}), r'\x1b'),
)


@pytest.mark.parametrize('name', WEIGHTS)
def test_weights_that_lie(tmp_path, loader, name):
    blob, why = WEIGHTS[name]
    p = tmp_path/'model.safetensors'
    p.write_bytes(blob)
    for load in loader:
        with pytest.raises(BadFile) as e: load(p)
        one_line(str(e.value), f'{p}: ', why, 'do not load it')


def test_sound_weights_pass(tmp_path):
    torch = pytest.importorskip('torch', reason='the extra [models] is not installed')
    from safetensors.torch import save_file
    kinds = dict(F64='float64', F32='float32', F16='float16', BF16='bfloat16', I64='int64', I8='int8', U8='uint8', BOOL='bool', F8_E4M3='float8_e4m3fn')
    made = {k: torch.zeros(3, 5, dtype=getattr(torch, t)) for k, t in kinds.items()} | dict(none=torch.zeros(0, 7), scalar=torch.tensor(1.))
    save_file(made, tmp_path/'x.safetensors', {'note': 'ours'})
    said = check_safetensors(tmp_path/'x.safetensors')
    assert said == {k: (k, (3, 5)) for k in kinds} | dict(none=('F32', (0, 7)), scalar=('F32', ()))


# ---- both, broken at random

def broken(blob, rng):
    "A few bytes changed, lost, put in or copied"
    b = bytearray(blob)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        i, j, how = rng.randrange(len(b) + 1), rng.randrange(len(b) + 1), rng.randrange(4)
        if how == 0: b[i:i + 1] = bytes([rng.choice((0, 255, 128, *b'09-/.', rng.randrange(256)))])
        elif how == 1: del b[i:i + rng.randrange(1, 30)]
        elif how == 2: b[i:i] = rng.randbytes(rng.randrange(1, 12))
        else: b[i:i + 8] = b[j:j + 8]
    return bytes(b)


def test_archives_and_weights_broken_at_random(tmp_path):
    "Unpacked wholly or not at all, with a `BadFile` and nothing else; nothing outside, no trace"
    rng, n = random.Random(7), Counter()
    home, x = tmp_path/'home', tmp_path/'home'/'x'
    home.mkdir()
    members = ('a/b', FILE, b'hello' * 30), ('c', tarfile.DIRTYPE, b''), ('d' * 120, FILE, b'y')
    sound = [tarred(x, *members, mode=m).read_bytes() for m in ('w', 'w:gz', 'w:bz2', 'w:xz')]
    sound.append(zipped(x, ('a/b', b'hello' * 30), ('c/', b''), ('d', b'y')).read_bytes())
    lies = weights({'a': entry(0, 4), 'b': entry(4, 12), '__metadata__': {'x': 'y'}}, bytes(12))
    for blob in sound * 120:
        x.write_bytes(broken(blob, rng))
        try: n['unpacked'] += len(unpack(x, home/'new', most_bytes=1 << 22)) > 0
        except BadFile as e: n['refused'] += str(e).isprintable()
        shutil.rmtree(home/'new', ignore_errors=True)
        assert [p.name for p in home.iterdir()] == ['x'] and [p.name for p in tmp_path.iterdir()] == ['home']
        x.write_bytes(broken(lies, rng))
        try: check_safetensors(x)
        except BadFile as e: n['lies'] += str(e).isprintable()
    assert n['unpacked'] > 20 and n['refused'] > 200 and n['lies'] > 500, n


@pytest.mark.parametrize('name', [b'\0a', b'\0\0\0'])
def test_a_zip_with_a_name_that_is_nothing(tmp_path, name):
    p = changed(zipped(tmp_path/'x.zip', ('x' * len(name), b'')), lambda b: b.replace(b'x' * len(name), name))
    with pytest.raises(BadFile, match='no text'): unpack(p, tmp_path/'new')
    assert [q.name for q in tmp_path.iterdir()] == ['x.zip']


# ---- fetching

class Server(http.server.ThreadingHTTPServer):
    "A server on this machine that does what the first part of the path says"
    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Answer)
        self.seen, self.other, self.stop = [], '', threading.Event()
        self.url = f'http://127.0.0.1:{self.server_port}'
        threading.Thread(target=self.serve_forever, daemon=True).start()


BODY = b'{"question": "q", "answer": "a"}\n'


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass

    def say(self, status=200, body=BODY, length=None, **headers):
        self.send_response(status)
        if length != 'none': self.send_header('Content-Length', str(len(body) if length is None else length))
        for k, v in headers.items(): self.send_header(k.replace('_', '-'), v)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        s, kind = self.server, self.path.strip('/').split('/')[0]
        s.seen.append(dict(self.headers))
        n = len(s.seen)
        if kind == 'good': self.say()
        elif kind == 'hangs': s.stop.wait(30)
        elif kind == 'stalls':
            self.say(length=999)
            s.stop.wait(30)
        elif kind == 'drips':
            self.say(length=10_000)
            with contextlib.suppress(OSError):
                while not s.stop.wait(.05): self.wfile.write(b' ')
        elif kind == 'cut': self.say(length=999)
        elif kind == 'cut_chunk':
            self.say(length='none', body=b'20\r\n{"a": 1}', Transfer_Encoding='chunked')
        elif kind == 'busy_once': self.say(429, b'', Retry_After='0') if n == 1 else self.say()
        elif kind == 'busy_date': self.say(503, b'', Retry_After=formatdate(time.time() - 5, usegmt=True)) if n == 1 else self.say()
        elif kind == 'busy': self.say(int(self.path.strip('/').split('/')[1]), b'', Retry_After='0')
        elif kind == 'busy_long': self.say(429, b'', Retry_After='86400')
        elif kind == 'busy_odd': self.say(429, b'', Retry_After='soon\x1b') if n == 1 else self.say()
        elif kind == 'none': self.say(404, b'not here')
        elif kind == 'forbidden': self.say(403, b'no')
        elif kind == 'away': self.say(302, b'', Location=f'{s.other}/good')
        elif kind == 'moved': self.say(301, b'', Location='/good')
        elif kind == 'circle': self.say(302, b'', Location='/circle')
        elif kind == 'big': self.say(body=b'x' * 5000)
        elif kind == 'says_big': self.say(length=1 << 40)
        elif kind == 'big_without_length': self.say(length='none', body=b'x' * 5000)
        elif kind == 'page': self.say(body=b'<!doctype html><p>log in')
        elif kind == 'bad_row': self.say(body=BODY + b'{"a": NaN}\n')


@pytest.fixture
def server():
    s = Server()
    yield s
    s.stop.set()
    s.shutdown()
    s.server_close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    "An empty cache, no shared data, and a catalogue with one file of ours"
    monkeypatch.delenv('REASONLAB_DATA', raising=False)
    monkeypatch.setenv('REASONLAB_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(data.time, 'sleep', naps.append)
    naps.clear()
    made(monkeypatch)
    return tmp_path/'cache'


naps = []  # what `time.sleep` was asked for


def made(monkeypatch, sha=None):
    f = data.DataFile('toy/rows.jsonl', 'toy', 'rows.jsonl', '0' * 64, 1, sha)
    toy = data.DataSet('toy', 'Toy', 'a/b', 'c' * 40, 'ours', ('x',), 'gsm8k', 'upstream', 'question', (f,))
    monkeypatch.setattr(data, 'catalog', lambda: {'toy': toy})


def fetch(server, kind, timeout=.5): return data.get('toy', f'{server.url}/{kind}/{{path}}', timeout=timeout, progress=False)


def left(home): return [p for p in home.rglob('*') if p.is_file()]


FETCHES = dict(  # what the server does: what the message says, how often it is asked
    hangs=('no answer within 0.5 seconds', 3), stalls=('stopped or broke off', 3), cut=('broke off', 3), cut_chunk=('broke off', 3), none=('404', 1),
    forbidden=('403', 1), away=('redirects to', 1), circle=('in a circle', 4), big=('more than', 1), says_big=('more than', 1),
    big_without_length=('more than', 1), page=('web page', 1), bad_row=('row 2', 1), busy_long=('asks to wait 86400', 1))


@pytest.mark.parametrize('kind', FETCHES)
def test_a_server_that_misbehaves(server, home, monkeypatch, kind):
    "One error with the address, no retry storm, no half file"
    why, asked = FETCHES[kind]
    if 'big' in kind: monkeypatch.setattr(data, 'MAX_FETCH', 4000)
    with contextlib.closing(Server()) if kind == 'away' else contextlib.nullcontext() as other:
        if other: server.other, other.close = other.url.replace('127.0.0.1', 'localhost'), other.shutdown
        with pytest.raises(data.FetchFailed) as e: fetch(server, kind)
        assert not (other and other.seen)
    one_line(str(e.value), server.url, why)
    assert len(server.seen) == asked and not left(home) and max(naps, default=0) <= data.MAX_WAIT


@pytest.mark.parametrize('status', [429, 503, 500])
def test_a_server_that_stays_busy(server, home, status):
    with pytest.raises(data.FetchFailed) as e: fetch(server, f'busy/{status}')
    one_line(str(e.value), server.url, f'answers {status}, 3 times', 'Try again later')
    assert len(server.seen) == data.TRIES and naps == [0, 0] and not left(home)


@pytest.mark.parametrize('kind,asked', [('good', 1), ('busy_once', 2), ('busy_date', 2), ('busy_odd', 2), ('moved', 2)])
def test_a_server_that_comes_round(server, home, kind, asked):
    (path,) = fetch(server, kind)
    assert path.read_bytes() == BODY and len(server.seen) == asked and left(home) == [path]
    assert naps == dict(busy_once=[0], busy_date=[0], busy_odd=[1]).get(kind, [])


def test_a_drip_has_an_end(server, home):
    "Every read succeeds, and the file would take an hour"
    with pytest.raises(data.FetchFailed, match='too slow'): fetch(server, 'drips', timeout=.1)
    assert len(server.seen) == 1 and not left(home)


def test_a_wrong_hash(server, home, monkeypatch):
    made(monkeypatch, '1' * 64)
    with pytest.raises(data.FetchFailed) as e: fetch(server, 'good')
    one_line(str(e.value), server.url, 'SHA-256', 'thrown away')
    assert not left(home)


def test_a_failed_fetch_leaves_the_old_file(server, home):
    (path,) = fetch(server, 'good')
    before = path.read_bytes()
    path.write_bytes(before)
    with pytest.raises(data.FetchFailed): data._fetch(f'{server.url}/cut', path.with_name('new'), None, timeout=.5, progress=False)
    assert path.read_bytes() == before


def test_no_password_is_sent(server, home, tmp_path, monkeypatch):
    (tmp_path/'netrc').write_text('machine 127.0.0.1 login me password secret\n')
    monkeypatch.setenv('NETRC', str(tmp_path/'netrc'))
    fetch(server, 'good')
    assert 'Authorization' not in server.seen[0]


@pytest.mark.parametrize('name', ['REASONLAB_OFFLINE', 'HF_HUB_OFFLINE'])
def test_offline_with_the_file_missing(home, monkeypatch, name):
    "Nobody is asked, not even for an address"
    for n in ('REASONLAB_OFFLINE', 'HF_HUB_OFFLINE'): monkeypatch.delenv(n, raising=False)
    monkeypatch.setenv(name, '1')
    calls = []
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *a, **k: calls.append(a))
    with pytest.raises(data.DataMissing) as e: data.get('toy')
    one_line(str(e.value), 'rows.jsonl', name, 'REASONLAB_DATA')
    assert not calls and not left(home)
    home.joinpath('data/toy').mkdir(parents=True)
    home.joinpath('data/toy/rows.jsonl').write_bytes(BODY)
    assert data.get('toy') == [home/'data/toy/rows.jsonl'] and not calls


@pytest.mark.parametrize('env,said', [({'HF_HUB_OFFLINE': '1'}, b'HF_HUB_OFFLINE'), ({'REASONLAB_OFFLINE': '0', 'HTTPS_PROXY': 'http://127.0.0.1:1'}, b'offline')])
def test_no_network_in_the_command(tmp_path, env, said):
    done = lab('data', 'get', 'gsm8k', env={'REASONLAB_DATA': str(tmp_path), 'REASONLAB_CACHE': str(tmp_path)} | env)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and said in done.stderr, done.stderr
    assert not left(tmp_path)


DAMAGED = dict(cut=(BODY * 3)[:-20], nan=BODY + b'{"question": NaN}\n', empty=b'', not_utf8=BODY + b'{"question": "\xe9"}\n', field=BODY + b'{"q": 1}\n', lfs=b'version https://git-lfs')


@pytest.mark.parametrize('kind', DAMAGED)
def test_a_damaged_file_in_the_data_folder(tmp_path, monkeypatch, kind):
    made(monkeypatch)
    p = tmp_path/'toy'/'rows.jsonl'
    p.parent.mkdir()
    p.write_bytes(DAMAGED[kind])
    monkeypatch.setenv('REASONLAB_DATA', str(tmp_path))
    with pytest.raises(BadFile) as e: data.rows('toy')
    one_line(str(e.value), str(p), 'reasonlab data get', 'REASONLAB_DATA')
    assert [r['status'] for r in data.check('toy')] == ['differs']


def test_a_damaged_file_in_the_command(tmp_path):
    p = tmp_path/'gsm8k'/'train.jsonl.gz'
    p.parent.mkdir()
    p.write_bytes(gzip.compress(BODY * 999)[:60])
    done = lab('data', 'check', 'gsm8k', env={'REASONLAB_DATA': str(tmp_path)})
    assert done.returncode == 1 and b'differs' in done.stdout and not done.stderr
