"""Random pieces of chat templates with the text that transformers' Jinja2 gives for them.

usage: python jinja_pieces.py SEED COUNT      (a Python with transformers and jinja2)
Prints {"messages": ..., "tools": ..., "pieces": [{"template": ..., "expected": text, or null where it raises}]}.
Pieces whose text no other program could give (an address in memory) are left out."""
import json, random, re, sys, warnings

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Héllo <b>\"x\"</b> 5 > 3 & 한글\n  two\tlines "},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes", "reasoning": "hm", "refusal": None, "tool_calls": [
        {"id": "abcdef123", "type": "function", "function": {"name": "add", "arguments": {"b": 1, "a": [1.0, 2.5e-07, None, True], "s": "it's \"q\" \\ \n é"}}}]},
    {"role": "tool", "name": "add", "tool_call_id": "abcdef123", "content": "3"},
    {"role": "user", "content": [{"type": "text", "text": "thanks  "}, {"type": "image"}]},
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {
    "a": {"type": "array", "items": {"type": "number"}}, "m": {"type": "string", "enum": ["x", "y"], "default": "x"}}, "required": ["a"]}}}]
VARIABLES = {"n": 7, "x": -2.5, "text": "a-b c_d", "empty": "", "flag": True, "ratio": 0.1, "pairs": {"b": 2, "A": 1, "c": 3}, "words": ["pear", "Fig", "apple", "fig"], "mixed": [3, 1, 2, 2.0, True]}


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def pick(self, *options):
        return self.r.choice(options)

    def string(self):
        return self.pick("''", "'a'", "'abc'", "'Ab Cd'", "' a b '", "'a,b,,c'", "'é한'", "'x\\ny\\n'", "'<&>\\''", "'12'", "'-3.5'", "'%s|%d'", "'{} {}'", "\"it's\"", "'ǅß'", "'ABC'", "'a\\tb'", "'tool_calls'", "'role'")

    def integer(self):
        return self.pick("0", "1", "2", "3", "-1", "-2", "10", "1_000", "0x1f", "255")

    def number(self):
        return self.pick(self.integer(), self.integer(), "1.5", "0.1", "-2.5", "1e16", "1e-5", "3.0", "2.675", "123456.789", "1e22")

    def atom(self):
        return self.pick(self.string, self.string, self.number, self.integer, lambda: self.pick("true", "false", "none", "nope", "n", "x", "text", "empty", "flag", "ratio", "pairs", "words", "mixed", "messages", "tools", "documents"),
                         lambda: "messages[%s]" % self.integer(), lambda: "messages[%d].%s" % (self.r.randrange(5), self.pick("role", "content", "name", "tool_calls", "nope", "get('role')")),
                         lambda: "messages[2].tool_calls[0].function.%s" % self.pick("name", "arguments", "arguments.a", "arguments.s", "arguments.nope"), lambda: "tools[0].function.%s" % self.pick("parameters", "name", "parameters.properties"))()

    def sequence(self, depth):
        return self.pick(lambda: "[%s]" % ", ".join(self.expr(depth - 1) for _ in range(self.r.randrange(4))), lambda: "(%s,)" % ", ".join(self.expr(depth - 1) for _ in range(1 + self.r.randrange(3))),
                         lambda: "range(%s)" % self.pick("3", "1, 5", "5, 0, -2", "0"), lambda: "words", lambda: "mixed", lambda: "messages", lambda: "pairs", lambda: self.string(), lambda: "pairs.%s()" % self.pick("items", "keys", "values"),
                         lambda: "[3, 1, 2]", lambda: "['b', 'A', 'c']", lambda: "[{'k': 1, 'v': 'x'}, {'k': 2, 'v': 'Y'}, {'k': 1}]")()

    def dictionary(self, depth):
        return self.pick(lambda: "{%s}" % ", ".join("%s: %s" % (self.pick(self.string(), self.integer(), "true", "none", "(1, 2)", "1.0"), self.expr(depth - 1)) for _ in range(self.r.randrange(4))), lambda: "pairs", lambda: "messages[0]", lambda: "dict(a=1, b=%s)" % self.atom())()

    def small(self):
        return self.pick("0", "1", "2", "3", "-1", "5", "7")

    def filtered(self, depth):
        v = lambda: self.expr(depth - 1)
        s = lambda: self.sequence(depth - 1)
        t = self.string
        name = self.pick("upper", "lower", "title", "capitalize", "trim", "length", "count", "list", "first", "last", "reverse", "sort", "unique", "string", "int", "float", "abs", "round", "join", "tojson", "default", "d", "items", "dictsort", "min", "max",
                         "sum", "escape", "e", "safe", "urlencode", "wordcount", "striptags", "xmlattr", "filesizeformat", "forceescape", "select", "reject", "batch", "slice", "map", "selectattr", "rejectattr", "groupby", "indent", "truncate", "wordwrap", "center", "replace", "format", "attr")
        listed = lambda text: "(%s)|list" % text
        return {
            "round": lambda: "%s|round%s" % (v(), self.pick("", "(1)", "(2)", "(0, 'floor')", "(1, 'ceil')", "(-1)", "(method='common')")),
            "join": lambda: "%s|join%s" % (s(), self.pick("", "(', ')", "(d='-')", "('|', attribute='role')", "(%s)" % t())),
            "tojson": lambda: "%s|tojson%s" % (v(), self.pick("", "", "(indent=2)", "(ensure_ascii=true)", "(separators=(',', ':'))", "(sort_keys=true)", "(indent=4, sort_keys=true)", "(true)", "(indent='--')", "(indent=0)")),
            "default": lambda: "%s|default(%s%s)" % (v(), t(), self.pick("", ", true", ", boolean=true")),
            "d": lambda: "%s|d(%s)" % (v(), v()),
            "sort": lambda: "%s|sort%s" % (s(), self.pick("", "(reverse=true)", "(attribute='k')", "(case_sensitive=true)", "(attribute='role')", "(true)", "(attribute='k,v')")),
            "unique": lambda: listed("%s|unique%s" % (s(), self.pick("", "(attribute='k')", "(true)", "(attribute='role')"))),
            "dictsort": lambda: "%s|dictsort%s" % (self.dictionary(depth), self.pick("", "(true)", "(by='value')", "(reverse=true)", "(false, 'value', true)")),
            "min": lambda: "%s|min%s" % (s(), self.pick("", "(attribute='k')", "(case_sensitive=true)")), "max": lambda: "%s|max%s" % (s(), self.pick("", "(attribute='k')")),
            "sum": lambda: "%s|sum%s" % (s(), self.pick("", "(start=10)", "(attribute='k')", "('k', 1)", "(start=[])")),
            "select": lambda: listed("%s|select%s" % (s(), self.pick("", "('odd')", "('string')", "('gt', 1)", "('in', [1, 'a'])", "('defined')", "('nope')", "('==', 2)"))), "reject": lambda: listed("%s|reject%s" % (s(), self.pick("", "('even')", "('none')", "('equalto', 2)"))),
            "selectattr": lambda: "%s|list" % ("%s|selectattr%s" % (s(), self.pick("('k')", "('k', 'equalto', 1)", "('role', '==', 'user')", "('v', 'defined')", "('k', 'odd')", "('role', 'in', ['user', 'tool'])"))),
            "rejectattr": lambda: "%s|list" % ("%s|rejectattr%s" % (s(), self.pick("('k')", "('role', 'eq', 'user')", "('tool_calls')"))),
            "map": lambda: "%s|list" % ("%s|map%s" % (s(), self.pick("('upper')", "(attribute='role')", "(attribute='k', default=0)", "('length')", "('int')", "('string')", "('default', 'z')", "(attribute='0')", "('tojson')", "('round', 1)", "('replace', 'a', 'b')", "()", "('nope')", "(attribute='content', default='')"))),
            "groupby": lambda: "%s|groupby(%s)" % (self.pick("messages", "[{'k': 1, 'v': 'x'}, {'k': 2, 'v': 'Y'}, {'k': 1}]", s()), self.pick("'role'", "'k'", "'v', default='q'", "attribute='k'", "'v', default='X', case_sensitive=true")),
            "batch": lambda: listed("%s|batch(%s%s)" % (s(), self.pick("1", "2", "3"), self.pick("", ", '-'"))), "slice": lambda: listed("%s|slice(%s%s)" % (s(), self.pick("1", "2", "3"), self.pick("", ", '-'"))),
            "items": lambda: listed("%s|items" % self.pick(self.dictionary(depth), "nope", "pairs")), "reverse": lambda: self.pick("%s|reverse" % t(), listed("%s|reverse" % s())),
            "indent": lambda: "%s|indent%s" % (self.pick("messages[1].content", t(), v()), self.pick("", "(2)", "(2, true)", "('> ', blank=true)", "(width=1, first=true)")), "truncate": lambda: "%s|truncate%s" % (self.pick("messages[1].content", t()), self.pick("", "(5)", "(9, true)", "(8, false, '..')", "(3, leeway=0)", "(length=5, end='')")),
            "wordwrap": lambda: "%s|wordwrap%s" % (self.pick("messages[1].content", "'one two-three four--five sixsevenseven'", t()), self.pick("", "(5)", "(3)", "(7, false)", "(6, wrapstring='/')", "(8, break_on_hyphens=false)")),
            "center": lambda: "%s|center(%s)" % (t(), self.small()), "replace": lambda: "%s|replace(%s, %s%s)" % (v(), t(), t(), self.pick("", ", 1", ", count=2")),
            "format": lambda: "%s|format(%s)" % (self.pick("'%s-%d'", "'%r'", "'%(a)s'", "'%5.2f|%-4s|%x'", "'%%'"), self.pick("1, 2", "'x'", "a=1", "3.14159, 'b', 255", "")), "attr": lambda: "%s|attr(%s)" % (v(), self.pick("'role'", "'upper'", "'nope'", "'__class__'")),
            "int": lambda: "%s|int%s" % (v(), self.pick("", "(5)", "(base=16)", "(default='q')", "(0, 2)")), "float": lambda: "%s|float%s" % (v(), self.pick("", "(1.5)")), "trim": lambda: "%s|trim%s" % (v(), self.pick("", "('a')", "(' ab')", "(none)")),
            "list": lambda: "%s|list" % s(), "first": lambda: "%s|first" % s(), "last": lambda: "%s|last" % s(), "length": lambda: "%s|length" % self.pick(v(), s()), "count": lambda: "%s|count" % s(), "xmlattr": lambda: "%s|xmlattr" % self.dictionary(depth),
        }.get(name, lambda: "%s|%s" % (v(), name))()

    def tested(self, depth):
        v = self.expr(depth - 1)
        return "%s is %s%s" % (v, self.pick("", "", "not "), self.pick("defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable", "callable", "odd", "even", "lower", "upper", "true", "false", "escaped", "divisibleby 3", "divisibleby(2)",
                               "sameas none", "sameas(true)", "in [1, 'a']", "in(words)", "eq 1", "equalto('a')", "gt 2", "lt 1.5", "ge 0", "le 3", "ne none", "filter", "test"))

    def method(self, depth):
        text = lambda: self.pick(self.string(), "messages[1].content", "text")
        call = self.pick("upper()", "lower()", "title()", "capitalize()", "swapcase()", "casefold()", "strip()", "strip('a ')", "lstrip()", "rstrip('\\n')", "split()", "split(',')", "split(' ', 1)", "split(none, 1)", "rsplit(' ', 1)", "rsplit(maxsplit=1)", "splitlines()", "splitlines(true)",
                         "startswith('a')", "startswith(('x', 'a'))", "endswith('c', 1)", "find('b')", "rfind('a', 1, -1)", "index('a')", "rindex('b')", "count('a')", "count('')", "replace('a', 'bb')", "replace('', '-', 2)", "partition('-')", "rpartition(' ')", "removeprefix('a')", "removesuffix('c')",
                         "zfill(5)", "center(9)", "center(8, '*')", "ljust(6)", "rjust(6, '.')", "expandtabs()", "expandtabs(3)", "isdigit()", "isalpha()", "isalnum()", "isspace()", "islower()", "isupper()", "istitle()", "isnumeric()", "isdecimal()", "isidentifier()", "isascii()", "isprintable()",
                         "join(['a', 'b'])", "join(words)", "join('xyz')", "format(1, 'z')", "format(a=1)", "nope()", "upper is callable", "split('')", "strip(1)")
        other = self.pick("pairs.get('b')", "pairs.get('z', 5)", "pairs.get('z')", "pairs.items()|list", "pairs.keys()|list", "pairs.values()|list", "pairs.copy()", "pairs.items()", "pairs.keys()", "pairs.values()", "pairs.pop('b')", "pairs.update({})", "words.index('fig')", "words.index('zzz')", "words.count('fig')",
                          "words.copy()", "words.append(1)", "mixed.index(2, 3)", "(1, 2).count(1)", "messages[0].items()|list", "pairs.items is callable", "pairs['items'] is defined", "messages[2].get('tool_calls', [])|length", "dict(a=1)", "dict([('a', 1)], b=2)", "dict(pairs, z=1)", "namespace(a=1).a", "namespace(a=1).b", "cycler('a', 'b').next()",
                          "joiner('-')()", "range(3).start", "n.bit_length()", "ratio.is_integer()", "'{0:>5}|{1:05d}|{2:.2f}|{3!r}'.format('a', 42, 3.14159, 'q')", "'{a[0]}{b.role}'.format(a=[1], b=messages[0])", "'{:,}|{:+}|{:x}|{:%}|{:e}'.format(1234567, 5, 255, 0.5, 12345.678)", "'%s' % pairs", "'%5s|%-5s|%05d|%+d|%.3f|%e|%g' % ('a', 'b', 42, 7, 2.5, 12345.678, 0.0001)",
                          "'%(a)s %(b)d' % {'a': 1, 'b': 2}", "'%s %s' % ('a',)", "'%d' % 'a'", "'%s' % messages[0].role", "'%c%%' % 65", "'%r' % 'it'", "loop", "caller", "self", "range(2, 10, 3)[1]", "range(5)[::-1]|list", "range(4)|last", "'abc'|list|join('-')|upper|replace('A', 'x')", "[1, 2, 3][::2]", "'abcdef'[1:-1:2]", "(1, 2, 3)[-2:]", "[[1, 2], [3]]|sum(start=[])", "[1, [2, {'a': none}], 'x']|string")
        return self.pick("%s.%s" % (text(), call), "%s.%s" % (text(), call), other)

    def subscript(self, depth):
        return "%s[%s]" % (self.pick(self.string(), "words", "messages", "(%s)" % self.sequence(depth - 1), "pairs"), self.pick(self.small(), "%s:%s" % (self.pick("", self.small()), self.pick("", self.small())), "::%s" % self.pick("2", "-1", "-2", "0"), "%s:%s:%s" % (self.small(), self.small(), self.pick("1", "-1", "2")), "'b'", "'role'", self.expr(depth - 1)))

    def expr(self, depth):
        if depth <= 0:
            return self.atom()
        e = lambda: self.expr(depth - 1)
        p = lambda: "(%s)" % self.expr(depth - 1)
        return self.pick(self.atom, self.atom, lambda: self.filtered(depth), lambda: self.filtered(depth), lambda: self.filtered(depth), lambda: self.tested(depth), lambda: self.method(depth), lambda: self.method(depth), lambda: self.subscript(depth), lambda: self.sequence(depth), lambda: self.dictionary(depth),
                         lambda: "%s %s %s" % (p(), self.pick("+", "-", "/", "//", "%", "~", "==", "!=", "<", ">", "<=", ">=", "and", "or", "in", "not in"), p()), lambda: "%s %s %s" % (e(), self.pick("+", "~", "and", "or", "==", "<"), e()), lambda: "%s * %s" % (p(), self.small()), lambda: "%s ** %s" % (self.number(), self.small()),
                         lambda: "not %s" % e(), lambda: "-%s" % p(), lambda: "%s if %s else %s" % (e(), e(), e()), lambda: "%s if %s" % (p(), p()), lambda: "1 < %s <= 5" % self.number(), lambda: "%s" % self.number())()

    def ws(self):
        return self.pick("", "", "", "-", "+")

    def space(self):
        return self.pick("", "", " ", "\n", "\n  ", "  \n", "x", "\n\n")

    def tag(self, inside):
        return "{%%%s %s %s%%}" % (self.ws(), inside, self.ws())

    def out(self, depth):
        return "{{%s %s %s}}" % (self.pick("", "", "-"), self.expr(depth), self.pick("", "", "-"))

    def block(self, depth, loop=False):
        s = self.space
        if depth <= 0:
            return self.pick(lambda: self.out(1), lambda: "t", lambda: "{{ loop.index }}" if loop else "{{ v }}", lambda: "{{ v }}")()
        b = lambda inside=loop: s() + self.block(depth - 1, inside) + s()
        names = lambda: self.pick("v", "w", "ns.a", "messages")
        loops = "{{ loop.%s }}" % self.pick("index", "index0", "first", "last", "length", "revindex", "revindex0", "depth", "previtem", "nextitem", "cycle('a', 'b')", "changed(v)", "nope")
        iterable = lambda: self.pick("words", "messages", "range(3)", "[]", "pairs", "'abc'", "[1, [2, [3]]]", self.sequence(1), self.expr(1))
        return self.pick(
            lambda: self.out(depth), lambda: self.out(1), lambda: b() + b(),
            lambda: self.tag("set %s = %s" % (names(), self.expr(1))) + b(), lambda: self.tag("set v, w = %s" % self.pick("1, 2", "[1, 2]", "'ab'", "words", "(1, (2,))")) + "{{ v }}{{ w }}",
            lambda: self.tag("if %s" % self.expr(1)) + b() + self.pick("", self.tag("elif %s" % self.expr(1)) + b()) + self.pick("", self.tag("else") + b()) + self.tag("endif"),
            lambda: self.tag("for v in %s%s" % (iterable(), self.pick("", "", " if v is string", " if v", " if loop is undefined", " if not v.role"))) + b(True) + self.pick("", loops, self.tag(self.pick("break", "continue")), self.tag("if loop.index > 1") + self.tag(self.pick("break", "continue")) + self.tag("endif")) + s() + self.pick("", "", self.tag("else") + b()) + self.tag("endfor"),
            lambda: self.tag("for k, v in %s" % self.pick("pairs.items()", "pairs|dictsort", "pairs|items", "[(1, 2)]", "words", "messages[0].items()")) + "{{ k }}{{ v }}" + loops + b(True) + self.tag("endfor"),
            lambda: "{% for v in [1,[2,[3, 4]]] recursive %}{{ loop.depth }}{% if v is iterable %}<{{ loop(v) }}>{% else %}{{ v }}{% endif %}{% endfor %}",
            lambda: self.tag("macro m(%s)" % self.pick("", "p", "p, q=2", "p='d', q=p", "p, caller=none")) + self.pick("{{ p }}", "{{ p }}{{ q }}", "{{ varargs }}", "{{ kwargs }}", "{{ caller() }}", "{{ caller(1) if caller }}", "{{ v }}{{ n }}", "{% set v = 'in' %}{{ v }}") + b(False) + self.tag("endmacro") + self.pick("{{ m() }}", "{{ m(1) }}", "{{ m(1, 2) }}", "{{ m(q=1) }}", "{{ m(p=3, z=4) }}", "{{ m(*[1]) }}", "{{ m(**{'p': 5}) }}", "{% call m(1) %}inner{{ v }}{% endcall %}", "{% call(z) m(1) %}{{ z }}{% endcall %}", "{{ m.name }}{{ m.arguments }}", ""),
            lambda: "{% set ns = namespace(a=0, t='') %}{% for v in " + iterable() + " %}{% set ns.a = ns.a + 1 %}" + b(True) + "{% endfor %}{{ ns.a }}", lambda: self.tag("filter %s" % self.pick("upper", "trim", "indent(2)", "replace('a', 'b')", "upper|lower", "length")) + b() + self.tag("endfilter"),
            lambda: self.tag("set v%s" % self.pick("", " | upper", " | trim | length")) + b() + self.tag("endset") + "{{ v }}", lambda: self.tag("with v = %s, w = v" % self.expr(1)) + b() + "{{ w }}" + self.tag("endwith"),
            lambda: "{#%s c %s#}" % (self.pick("", "-"), self.pick("", "-", "+")) + b(), lambda: self.tag("raw") + s() + "{{ x }}{% if %}" + s() + self.tag("endraw"), lambda: self.tag("generation") + b(False) + self.tag("endgeneration"), lambda: self.tag("autoescape %s" % self.pick("true", "false")) + b() + "{{ '<a>' }}{{ '<b>'|safe }}{{ '<' ~ text }}" + self.tag("endautoescape"),
            lambda: self.tag("print %s" % self.expr(1)), lambda: self.tag("block inner%d" % self.r.randrange(10**6)) + b(False) + self.tag("endblock"), lambda: "{{ raise_exception('no' ~ v) }}" if self.r.random() < 0.2 else b())()

    def piece(self):
        if self.r.random() < 0.55:
            return self.out(self.pick(1, 2, 2, 3))
        return self.space() + self.block(self.pick(1, 2, 3)) + self.space()


def environment():
    from transformers.utils import chat_template_utils
    return chat_template_utils._compile_jinja_template


def seen():
    """The messages as a template sees them: no null fields, thoughts under each of their names."""
    from transformers.utils import chat_template_utils as utils
    return utils._alias_reasoning_fields(utils._normalize_chat_messages(MESSAGES))


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    warnings.simplefilter("ignore")
    compile_template = environment()
    maker, pieces, messages = Maker(seed), [], seen()
    while len(pieces) < count:
        template = maker.piece()
        try:
            expected = compile_template(template).render(messages=messages, tools=TOOLS, documents=None, add_generation_prompt=True, **VARIABLES)
        except RecursionError:
            continue
        except Exception as error:
            expected = None
        if expected is not None and re.search(r"0x[0-9a-f]{6,}|<(built-in|bound|function|generator|class|method|slot|list_|str_|dict_\w*iter|range_|tuple_|reversed|filter|map)[ _]?|<Macro|object at|TemplateReference|BlockReference|<module|<jinja2|<transformers|lipsum", expected, re.IGNORECASE):
            continue
        pieces.append({"template": template, "expected": expected})
    print(json.dumps({"messages": MESSAGES, "tools": TOOLS, "variables": VARIABLES, "pieces": pieces}))


if __name__ == "__main__":
    main()
