"""Golden texts of tests/fixtures/jinja: pieces of chat templates with what transformers' Jinja2 makes of them.

    python scripts/golden/jinja.py        (a Python with transformers and jinja2)

`pieces.json`: those written out below, by kind, and 500 made at random by `tests/interop/jinja_pieces.py` (seed 16).
"""

import json
import subprocess
import sys
import warnings
from pathlib import Path

HOUSE = Path(__file__).parents[2]
sys.path.insert(0, str(HOUSE / "tests/interop"))
from jinja_pieces import TOOLS, VARIABLES, environment, seen

PIECES = """
{{ 'a,b;c'.split(';') }}{{ 'a  b'.split() }}{{ ' a b c '.rsplit(None, 1) }}{{ 'a|b|c'.rsplit('|', 1) }}
{{ 'x'.ljust(4) }}|{{ 'x'.rjust(4, '0') }}|{{ 'xy'.center(5, '-') }}|{{ '-7'.zfill(4) }}|{{ '+x'.zfill(5) }}
{{ 'hello world'.title() }}{{ "they're bill's".title() }}{{ "they're bill's"|title }}{{ 'ß'.upper() }}{{ 'İ'.lower() }}{{ 'ΑΣ'.lower() }}
{{ 'abcabc'.find('c', 3) }}{{ 'abcabc'.rfind('b') }}{{ 'abc'.find('z') }}{{ 'aaa'.count('aa') }}{{ 'abc'.count('') }}{{ 'abc'.index('c', -1) }}
{{ 'abc'.index('z') }}
{{ '٣'.isdigit() }}{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ '½'.isnumeric() }}{{ 'Ⅷ'.isalpha() }}{{ 'é'.isalpha() }}{{ ''.isalpha() }}{{ 'a1'.isalnum() }}{{ '_a'.isidentifier() }}
{{ 'a\\nb\\r\\nc\\x0bd'.splitlines() }}{{ 'a\\n\\nb\\n'.splitlines(True) }}{{ ''.splitlines() }}
{{ 'a.b.c'.partition('.') }}{{ 'a.b.c'.rpartition('.') }}{{ 'abc'.rpartition('.') }}
{{ 'abc'.startswith('b', 1) }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'abc'.startswith('', 4) }}
{{ ['a']|join|upper ~ 1 ~ none ~ true ~ 1.0 }}
{{ "%s and %r" % ('a', 'b') }}{{ "%05.1f|%+d|%x|%o|%e|%g" % (3.14159, 5, 255, 8, 12345.678, 1e-10) }}{{ '%-6s|%6s' % ('ab', 'cd') }}{{ '%3d%%' % 50 }}
{{ '%(k)s-%(n)03d' % {'k': 'v', 'n': 7} }}{{ '%s' % [1, 2] }}{{ '%s' % none }}{{ '%s %s' % (1,) }}
{{ '{} {}'.format(1, 'a') }}{{ '{1}{0}'.format('a', 'b') }}{{ '{x:>4}|{x:<4}|{x:^4}|{x!r}'.format(x='a') }}{{ '{:.2f} {:,} {:08.3f} {:+d}'.format(3.14159, 1234567, 2.5, 3) }}{{ '{:#x} {:b} {:o} {:e}'.format(255, 5, 8, 1.5) }}{{ '{{}}'.format() }}{{ '{:.1%}'.format(0.256) }}
{{ 7 // 2 }}{{ -7 // 2 }}{{ -7 % 3 }}{{ 7 % -3 }}{{ 7 / 2 }}{{ 4 / 2 }}{{ 2 ** 10 }}{{ 2 ** -1 }}{{ 7.5 // 2 }}{{ -7.5 % 2 }}{{ -2 ** 2 }}
{{ 1e15 }} {{ 1e16 }} {{ 123456789012345680.0 }} {{ 1e-4 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 1/3 }} {{ 2.0 }} {{ 1e100 }} {{ 5e-324 }} {{ -0.0 }}
{{ 10000000000000000000000 }} {{ 0xff }} {{ 0b11 }} {{ 0o17 }} {{ 1_000 }} {{ 1.5e3 }}
{{ 2.675|round(2) }} {{ 2.5|round }} {{ 3.5|round }} {{ -2.5|round }} {{ 1234|round(-2) }} {{ 1250|round(-2) }} {{ 2.1|round(0, 'ceil') }} {{ 2.15|round(1, 'floor') }} {{ 5|round }}
{{ '42'|int }} {{ '4.9'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ '0x1F'|int(0, 16) }} {{ '101'|int(base=2) }} {{ none|int }} {{ ' 5 '|int }} {{ '1e3'|int }} {{ true|int }} {{ 3.99|int }} {{ '1_0'|int }}
{{ '3.5'|float }} {{ 'x'|float }} {{ 'inf'|float }} {{ 'nan'|float }} {{ 7|float }} {{ '1e5'|float }}
{{ (1, 'a', none, true) }} {{ (1,) }} {{ () }} {{ [(), [], {}] }} {{ {'a': {'b': (1.0, -2)}} }}
{{ ["it's", 'say "x"', 'both \\' and "', '\\n\\t\\\\', '\\x00\\x7f', 'é한🙂', '\\u200b', '\\xa0'] }}
{{ {1: 'a', 'b': 2, none: 3, true: 4, (1, 2): 5} }}{{ {1: 'a', 1.0: 'b', true: 'c'} }}
{{ {'b': 1, 'a': [1, {'c': none}], 'é': 'ü'}|tojson }} {{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }} {{ 'é'|tojson(ensure_ascii=true) }} {{ '🙂'|tojson(true) }}
{{ {'a': [1, {}], 'b': []}|tojson(indent=2) }}{{ [1, [2]]|tojson(indent=0) }}{{ [1]|tojson(indent='\\t') }}{{ {'a': 1}|tojson(separators=(',', ':')) }}{{ [1, 2]|tojson(separators=('; ', '=')) }}
{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ (1, 2)|tojson }} {{ 1e-7|tojson }} {{ 'nan'|float|tojson }} {{ "</script>'\\x7f\\u2028"|tojson }}
{{ {(1, 2): 3}|tojson }}
{{ range(3)|tojson }}
{{ messages|map('upper')|tojson }}
{{ tools|tojson(indent=4) }}
{{ messages[2]|tojson }}
{{ messages|map(attribute='role')|unique|list }}{{ messages|map(attribute='name', default='-')|join(',') }}{{ messages|map(attribute='tool_calls.0.function.name', default='?')|list }}
{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='role')|list }}{{ messages|rejectattr('name')|list|length }}{{ messages|selectattr('role', 'in', ['tool'])|list|length }}
{{ messages|groupby('role')|map('first')|list }}{% for role, group in messages|groupby('role') %}{{ role }}={{ group|length }};{% endfor %}{% for g in messages|groupby('role') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}
{{ [3, 1, 2]|sort(reverse=true) }}{{ ['b', 'A', 'c']|sort }}{{ ['b', 'A', 'c']|sort(case_sensitive=true) }}{{ [{'a': 2, 'b': 1}, {'a': 1, 'b': 2}]|sort(attribute='a')|map(attribute='b')|list }}{{ [1, 'a']|sort }}
{{ {'b': 1, 'A': 2}|dictsort }}{{ {'b': 1, 'A': 2}|dictsort(true) }}{{ {'b': 1, 'a': 2}|dictsort(by='value', reverse=true) }}
{{ [1, 2, 3, 4, 5]|batch(2)|list }}{{ [1, 2, 3]|batch(2, 0)|list }}{{ [1, 2, 3, 4, 5]|slice(3)|list }}{{ [1, 2, 3, 4]|slice(3, 'x')|list }}
{{ ['A', 'a', 'b']|unique|list }}{{ ['A', 'a']|unique(true)|list }}{{ [1, 1.0, true]|unique|list }}{{ [[1]]|unique|list }}
{{ [1, 2]|sum }}{{ [1.5, 2]|sum }}{{ [[1], [2]]|sum(start=[]) }}{{ ['a']|sum }}
{{ []|first }}|{{ []|last }}|{{ []|min }}|{{ 'abc'|last }}|{{ {'a': 1}|first }}|{{ range(5)|last }}|{{ (1, 2)|max }}|{{ ['b', 'A']|min }}
{{ 'abc'|reverse }}{{ [1, 2]|reverse|list }}{{ {'a': 1, 'b': 2}|reverse|list }}{{ range(3)|reverse|list }}
{{ 'foo bar baz qux'|truncate(9) }}|{{ 'foo bar baz qux'|truncate(9, true) }}|{{ 'foo bar baz qux'|truncate(11) }}|{{ 'foo bar baz qux'|truncate(9, false, '...', 0) }}
{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent('>>', blank=true) }}|{{ ''|indent }}|{{ 'a\\n'|indent(1) }}
{{ 'a long line-with hyphens and averyveryverylongword here'|wordwrap(12) }}|{{ 'one two three'|wordwrap(5, wrapstring='/') }}|{{ 'averylongword'|wordwrap(4, false) }}
{{ 'a b/c?d=é&x'|urlencode }} {{ {'a b': 1, 'c': 'd/e'}|urlencode }} {{ [('k', 'v w')]|urlencode }} {{ 5|urlencode }}
{{ '<a href="x">T  e\\nxt</a><!-- c -->&amp;'|striptags }}|{{ {'class': 'a b', 'id': none, 'x': 1}|xmlattr }}|{{ 13|filesizeformat }} {{ 1500|filesizeformat }} {{ 1500|filesizeformat(true) }} {{ 1|filesizeformat }}
{{ '<a>'|e }}{{ '<a>'|escape|escape }}{{ '<a>'|safe|e }}{{ ('<a>'|e) ~ '<b>' }}{{ ('<a>'|e) + '<b>' }}{{ ['<a>'|e] }}{{ '<a>'|forceescape }}{{ ('<%s>'|safe) % '<' }}{{ ('<a>'|e)|upper }}{{ ('&'|e)|replace('&', '<') }}
{% autoescape true %}{{ '<a>' }}{{ '<b>'|safe }}{{ '<' ~ '>' }}{{ ['<']|join }}{{ {'a': '<'} }}{% set x %}<{{ '<' }}{% endset %}{{ x }}{% macro m() %}<i>{{ '<' }}{% endmacro %}{{ m() }}{% endautoescape %}{{ '<' }}
{{ nope.x }}
{{ nope['x'] }}
{{ nope + 1 }}
{{ nope|upper }}|{{ nope|list }}|{{ nope|join }}|{{ nope ~ 'a' }}|{{ nope in [1] }}|{{ 1 in nope }}|{{ nope == nope2 }}|{{ nope is sequence }}|{{ nope is iterable }}|{{ nope is callable }}|{{ [nope] }}|{{ nope|default('d') }}|{{ ''|default('d') }}|{{ none|default('d', true) }}
{{ nope|int }}
{{ nope < 1 }}
{{ nope() }}
{{ messages[0].nope }}|{{ messages[0]['nope'] }}|{{ messages[0][3] }}|{{ messages['x'] }}|{{ messages.x }}|{{ 'abc'[9] }}|{{ 5 .x }}|{{ none.x }}
{{ none[0] }}|{{ messages[0].nope.x }}
{{ messages[0].items()|list }}{{ messages[0].get('role') }}{{ messages[0].get('x', 'y') }}{{ messages[0].get('x') }}{{ messages[0].items is callable }}{{ messages[0]['items'] is defined }}
{{ {'items': 1}['items'] }}{{ {'pop': 1}.pop }}{{ {'pop': 1}['pop'] }}{{ {'_a': 1}._a }}{{ {'__class__': 1}['__class__'] }}
{{ [].append }}|{{ [1].append is defined }}|{{ {}.update is defined }}|{{ ''.__class__ }}|{{ [].copy() }}|{{ {}.keys() }}
{{ [1].append(2) }}
{{ {'a': 1}.update({'b': 2}) }}
{{ 'x'.__class__.__mro__ }}
{% set l = [1] %}{% set l = l + [2] %}{{ l }}{% set d = dict({'a': 1}, b=2) %}{{ d }}{{ dict([('k', 'v')]) }}{{ {}.fromkeys(['a', 'b'], 0) }}
{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 }}{{ true == 1 }}{{ 'a' < 'b' }}{{ [1, 2] < [1, 3] }}{{ (1,) == [1] }}{{ none == false }}{{ {'a': 1} == {'a': 1.0} }}{{ not [] }}{{ 1 if [] }}|{{ 0 or 'x' }}{{ '' and 1 }}{{ none or {} }}
{{ 1 < 'a' }}
{{ 'a' in 'abc' }}{{ 'b' in ['a'] }}{{ 'role' in messages[0] }}{{ 2 in range(0, 5, 2) }}{{ 1 not in (1, 2) }}{{ not 1 in [1] }}{{ none in [none] }}{{ 1.0 in [1] }}{{ '' in '' }}
{{ 1 in 'abc' }}
{{ 1 in 5 }}
{{ [1] in {} }}
{{ 'abc' * 2 }}{{ [0] * 3 }}{{ 2 * (1,) }}{{ 'a' * -1 }}{{ true + 1 }}{{ 1 + 1.0 }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ [1] + (2,) }}
{{ 1 / 0 }}
{{ 'abc'[::-1] }}{{ 'abcdef'[1:-1:2] }}{{ [1, 2, 3][-2:] }}{{ (1, 2, 3)[:0] }}{{ range(10)[2:8:3]|list }}{{ 'héllo'[1:3] }}{{ messages[-1:]|length }}{{ 'abc'[:99] }}{{ 'abc'[-99:2] }}{{ [1, 2, 3][::0] }}
{{ range(3) }}{{ range(1, 10, 3) }}{{ range(5, 0, -2)|list }}{{ range(0)|list }}{{ range(3)|length }}{{ range(2)[1] }}
{{ range(100001)|length }}
{{ 5 is odd }}{{ 4 is even }}{{ 9 is divisibleby(3) }}{{ none is none }}{{ 1 is number }}{{ true is integer }}{{ true is boolean }}{{ 1.0 is float }}{{ 'a' is string }}{{ {} is mapping }}{{ [] is sequence }}{{ {} is sequence }}{{ 5 is iterable }}{{ 'a' is iterable }}{{ range is callable }}{{ 'A' is upper }}{{ 1 is upper }}{{ '<'|e is escaped }}{{ 3 is in [3] }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ 1 is sameas(1) }}{{ 2 is ge 2 }}{{ 1 is not none }}
{{ 'a' is odd }}
{{ 1 is nope }}
{{ 1|nope }}
{% if false %}{{ 1|nope }}{% endif %}ok{{ 2|nope if false else 'fine' }}
{% for i in [] %}{{ i|nope }}{% endfor %}
{% for a in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('x', 'y') }}{{ loop.depth }};{% endfor %}
{% for a in [1, 1, 2] %}{{ loop.changed(a) }}{% endfor %}{% for a in 'ab' %}{{ a }}{{ loop.last }}{% else %}no{% endfor %}{% for a in [] %}x{% else %}none{% endfor %}
{% for a in [1, 2, 3, 4] if a is even %}{{ loop.index }}/{{ loop.length }}:{{ a }} {% endfor %}{% for a in [1, 2, 3] if a > 5 %}x{% else %}empty{% endfor %}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for a in 5 %}{% endfor %}
{% for a in none %}{% endfor %}
{% for a in nope %}x{% else %}empty{% endfor %}
{% for a in [1, 2, 3, 4] %}{% if a == 3 %}{% break %}{% endif %}{% if a == 1 %}{% continue %}{% endif %}{{ a }}{% endfor %}
{% break %}
{% for m in [[1, [2]], 3] recursive %}{{ loop.depth0 }}{% if m is sequence %}({{ loop(m) }}){% else %}{{ m }}{% endif %}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}
{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% if m.role == 'tool' %}{% set ns.found = true %}{% endif %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.found }}{{ ns.n }}{{ ns.nope is defined }}
{% set x = {} %}{% set x.a = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}{% set d, (e, f) = 1, (2, 3) %}{{ f }}
{% set x %}  a {{ 1 + 1 }}{% endset %}[{{ x }}]{% set y | upper | trim %} abc {% endset %}[{{ y }}]
{% macro m(a, b='d', c=a) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}{{ m(1, 2, 3, 4, 5) }}{{ m(1, x=2) }}{{ m() }}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=1) }}
{% macro outer() %}[{{ caller('x', y=2) }}]{% endmacro %}{% call(p, y) outer() %}{{ p }}{{ y }}{% endcall %}{% macro n() %}{{ caller is defined }}{{ caller() if caller }}{% endmacro %}{{ n() }}
{% macro fact(n) %}{{ n if n < 2 else n * (fact(n - 1)|int) }}{% endmacro %}{{ fact(6) }}
{% macro f() %}{{ g }}{% endmacro %}{% set g = 1 %}{{ f() }}{% set g = 2 %}{{ f() }}{% for g in [3] %}{{ f() }}{% endfor %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set a = 5 %}{{ a }}{% endwith %}{{ a is defined }}
{% filter upper %}abc{{ 'd' }}{% endfilter %}{% filter replace('a', 'b')|upper %}aa{% endfilter %}
{% raw %}{{ x }}{% if %}{% endraw %}|{%- raw -%}  {{ y }}  {%- endraw -%}  |
a{# c #}b{#- c -#} d\\n{# c #}\\ne
  {% if true %}\\n  x\\n  {% endif %}\\n  y
  {%- if true -%}\\n  x\\n  {%- endif -%}\\n  y
  {%+ if true %}x{% endif +%}\\n y\\n
{{ 'a' -}}   b {{- 'c' }}\\n\\n
{% if true %}\\r\\nx\\r\\n{% endif %}\\r\\n
{{ "a" "b" 'c' }}{{ 'a\\x41\\u00e9\\101\\q' }}{{ '\\U0001F642' }}
{{ cycler('a', 'b').next() }}{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{% set j = joiner('; ') %}{{ j() }}a{{ j() }}b
{{ messages|length and tools|length }}{{ (messages|first).role }}{{ messages|first|attr('role') }}|{{ 'a'|attr('upper')() }}
{{ self }}
{% include 'x' %}
{% block title %}T{% endblock %}{{ self.title() }}
{% print 1, 2 %}
{% generation %}a{{ 1 }}{% endgeneration %}{% for m in messages %}{%- generation %}{{ m.role }}{% endgeneration -%}{% endfor %}
{% for i in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{{ raise_exception('stop') }}
{% if x > 1 %}{{ raise_exception('never') }}{% endif %}{{ x }}
{{ foo(
{% if true %}
{% nope %}
{{ 1 | }}
{{ }}
{{ 'a' 'b' if true else }}
{{ {'a': 1, } }}{{ [1, 2,] }}{{ (1, 2,) }}
{{ {1: 2}[1] }}{{ {1: 2}[1.0] }}{{ {'1': 2}[1] }}|{{ [1, 2][true] }}{{ [1, 2]['1'] }}|{{ [1, 2].1 }}
{{ namespace(**{'a': 1}).a }}{{ dict(**{'a': 1}) }}{{ range(*[1, 3])|list }}
{{ 'a'.join(['b', 'c']) }}{{ ','.join(messages|map(attribute='role')) }}
{{ ','.join([1]) }}
{{ lipsum is defined }}{{ strftime_now is defined }}{{ strftime_now('%%') }}{{ documents is none }}{{ add_generation_prompt }}
{{ 'ab'|list }}{{ {'a': 1}|list }}{{ 5|list }}
{{ messages[1].content|trim|replace('\\n', ' ')|wordcount }}{{ messages[1].content.split('<b>')[0]|trim }}
{{ messages[2].content.split('</think>')[-1].lstrip('\\n') }}{{ messages[2].content.split('<think>')|last|length }}{{ '</think>' in messages[2].content }}
""".strip("\n")


def main():
    warnings.simplefilter("ignore")
    compile_template, pieces = environment(), []
    given = dict(messages=seen(), tools=TOOLS, documents=None, add_generation_prompt=True, **VARIABLES)
    for line in PIECES.split("\n"):
        # A backslash and n outside a tag is a newline of the template; inside, the template's own escape.
        template = line
        if "{%" in line or line.startswith(("a{#", "  ", "{{ 'a' -")):
            template = line.replace("\\n", "\n").replace("\\r", "\r") if "'" not in line.replace("{{ 'a' -}}   b {{- 'c' }}", "") else line
        try:
            expected = compile_template(template).render(**given)
        except Exception:
            expected = None
        pieces.append({"template": template, "expected": expected})
    made = subprocess.run([sys.executable, str(HOUSE / "tests/interop/jinja_pieces.py"), "16", "500"], capture_output=True, text=True, check=True)
    pieces += json.loads(made.stdout)["pieces"]
    head = json.dumps({"messages": seen(), "tools": TOOLS, "variables": VARIABLES}, ensure_ascii=False)[:-1]
    body = ",\n".join(json.dumps(piece, ensure_ascii=False) for piece in pieces)
    target = HOUSE / "tests/fixtures/jinja/pieces.json"
    target.write_text(f'{head}, "pieces": [\n{body}\n]}}\n', encoding="utf-8")
    print(target, len(pieces), "pieces,", sum(piece["expected"] is None for piece in pieces), "raise")


main()
