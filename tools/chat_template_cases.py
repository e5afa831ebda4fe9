"""The inputs of chat_template_golden.py: conversations for whole templates, and a table of small templates."""
import itertools

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "  Weather of a city <now> & later.  ",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Städte, z.B. \"Köln\"", "enum": ["Köln", "東京"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 18446744073709551615, "default": 3},
                "step": {"type": "number", "default": 0.1, "multipleOf": 1e-07},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}}


def _call(arguments, name="get_weather", number=0):
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _message_sets():
    system = {"role": "system", "content": "  You are terse.\n"}
    user = {"role": "user", "content": "Hello, wörld! 你好 <b>&</b>\n"}
    parts = {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "ok"}]}
    thought = {"role": "assistant", "content": "<think>\nHmm.\n</think>\n\nYes. 🙂"}
    plain = {"role": "assistant", "content": "Yes."}
    reasoned = {"role": "assistant", "content": "Fine.", "reasoning_content": "Because."}
    objects = {"city": "Köln", "days": 2, "nested": {"a": [1, 2.5, None, True]}, "text": "a\"b\\c\n\u2028"}
    as_text = "{\"city\": \"Köln\"}"
    tool = {"role": "tool", "content": "{\"temp\": 21.5}", "tool_call_id": "call_0"}
    yield [user]
    yield [system, user]
    yield [system, user, plain, {"role": "user", "content": "And now?"}]
    yield [user, thought, {"role": "user", "content": "More"}, thought]
    yield [user, reasoned]
    yield [system, {"role": "system", "content": "Second."}, user]
    for content, arguments in itertools.product([None, "", "Let me see."], [objects, as_text]):
        call = {"role": "assistant", "content": content, "tool_calls": [_call(arguments)]}
        yield [user, call, tool]
        yield [system, user, call, tool, plain, user]
    two = {"role": "assistant", "content": None, "tool_calls": [_call(as_text), _call("{}", "add", 1)]}
    yield [user, two, tool, dict(tool, tool_call_id="call_1")]
    yield [user, dict(two, content="Both."), tool, tool, plain]
    yield [parts]
    yield [system, parts, plain]
    yield [system]
    yield [user, {"role": "assistant", "content": "Sure, ", "prefix": True}]
    yield [{"role": "assistant", "content": "</think>"}, {"role": "developer", "content": "x"}]
    yield []
    yield [{"role": "user"}]


def conversations():
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    extras = [
        {"tools": None},
        {"tools": [WEATHER, ADD]},
        {"tools": [WEATHER], "enable_thinking": False, "tools_in_user_message": False},
        {"tools": None, "enable_thinking": True, "thinking": True, "date_string": "1 Jan 1970"},
        {"tools": None, "builtin_tools": ["get_weather", "code_interpreter", "search"], "custom_tools": [ADD]},
    ]
    out = []
    for number, messages in enumerate(_message_sets()):
        # Every conversation plainly and with tools, and one of the other variants in turn.
        variants = [(extras[0], True), (extras[0], False), (extras[1], True), (extras[2 + number % 3], True)]
        for extra, prompt in variants:
            out.append({"messages": messages, "documents": None, "add_generation_prompt": prompt, **tokens, **extra})
    return out


EXPRESSION_CONTEXT = {
    "n": 7, "neg": -7, "f": 2.5, "big": 9007199254740993, "zero": 0, "yes": True, "no": False, "nil": None, "empty": "",
    "s": "Hello, World", "u": "Grüße aus Köln, 東京 🙂", "ws": " \t x y \u00a0\n", "q": "it's \"q\" \\ \x07\u200b\xe9",
    "lines": "a\n\nb\r\nc", "xs": [3, 1, 2], "names": ["bob", "Alice", "carol", "bob"], "mixed": [1, "a", None, 2.5, True],
    "nested": [[1, 2], [3, 4]], "d": {"a": 1, "b": {"c": [1, 2]}, "items": "key", "x y": 0},
    "users": [{"name": "bob", "age": 30, "admin": True, "tags": ["x"]}, {"name": "Al", "age": 25, "admin": False},
              {"name": "cy", "age": 35, "address": {"city": "Rome"}}],
    "html": "<a href='x'>\"&\"</a>", "floats": [0.1, 1e16, 1e-05, 123456789.125, -0.0, 1e22, 5e-324], "tool": WEATHER,
}

_VALUES = ["n", "neg", "f", "zero", "yes", "nil", "empty", "s", "xs", "d", "missing", "(1, 'a')", "range(3)", "users|map(attribute='age')"]

EXPRESSIONS = []
E = EXPRESSIONS.append


def _all(*sources):
    EXPRESSIONS.extend(sources)


# Printing, literals, repr.
_all("{{ n }} {{ f }} {{ yes }} {{ nil }} {{ missing }} {{ xs }} {{ d }} {{ mixed }}", "{{ (1,) }}{{ () }}{{ (1, 2) }}{{ [] }}{{ {} }}",
     "{{ {'a': 1, 2: 'b', none: true, 1.5: [()]} }}", "{{ 'a' 'b' \"c\" }}", r"{{ 'x\ty\n\\\'\"\x41\u00e9\U0001F642\q' }}",
     "{{ q }}|{{ [q] }}|{{ ['a\\'b', \"c\\\"d'\"] }}", "{{ [u, ws] }}", "{{ floats }}", "{% for x in floats %}{{ x }} {{ x|tojson }};{% endfor %}",
     "{{ 007 }}", "{{ 1.0 }} {{ 100000000000000000000.0 }} {{ 1e15 }} {{ 123456789012345678.0 }}",
     "{{ true }}{{ True }}{{ false }}{{ none }}{{ None }}", "{{ [missing, nil] }}", "{{ range(3) }} {{ range(1, 10, 2) }} {{ range(3)|list }}", "{{ d.items() }} {{ d.keys() }} {{ d.values() }}",
     "{{ namespace(a=1, b='x') }}", "{{ 18446744073709551615 }} {{ -9223372036854775808 }}", "{{ big + 1 }}", "{{ '' }}", "{{ }}", "{{ , }}", "{{ 1, }}", "{{ 1, 2 }}", "{{ [1, 2,] }} {{ {'a': 1,} }}")
# Operators over every pair of types.
for _op in ["+", "-", "*", "/", "//", "%"]:
    for _a, _b in itertools.product(["n", "neg", "f", "zero", "yes", "s", "xs", "nil", "missing", "(1, 2)"], repeat=2):
        if (_op == "%" and _a == "s") or (_op in ("%", "//") and "f" in (_a, _b)):
            continue  # left out: the formatting of texts, remainders of floats
        E("{{ %s %s %s }}" % (_a, _op, _b))
for _op in ["==", "<", ">=", "in"]:
    for _a, _b in itertools.product(_VALUES, repeat=2):
        E("{{ %s %s %s }}" % (_a, _op, _b))
for _op in ["and", "or", "~"]:
    for _a, _b in itertools.product(["n", "zero", "empty", "s", "missing", "nil", "[]"], repeat=2):
        E("{{ %s %s %s }}" % (_a, _op, _b))
for _v in _VALUES + ["namespace()", "d.items()"]:
    _all("{{ not %s }}" % _v, "{{ -%s }}" % _v, "{{ +%s }}" % _v, "{{ %s|length }}" % _v, "{{ %s|list }}" % _v, "{{ %s|string }}" % _v, "{{ %s|tojson }}" % _v,
         "{{ %s|first }}" % _v, "{{ %s|last }}" % _v, "{{ %s|join('-') }}" % _v, "{{ %s|int }}" % _v, "{{ %s|upper }}" % _v,
         "{{ %s|trim }}" % _v, "{{ %s|default('D') }}" % _v, "{{ %s|default('D', true) }}" % _v, "{{ %s|sort }}" % _v, "{{ %s|max }}" % _v,
         "{{ %s|unique|list }}" % _v, "{{ %s|items|list }}" % _v, "{{ %s|dictsort }}" % _v, "{{ %s|replace('1', 'x') }}" % _v, "{{ %s|map('string')|list }}" % _v, "{{ %s|select|list }}" % _v,
         "{{ %s.foo }}" % _v, "{{ %s['foo'] }}" % _v, "{{ %s[0] }}" % _v, "{{ %s[1:] }}" % _v, "{{ %s.foo.bar }}" % _v, "{{ %s() }}" % _v, "{% for x in " + _v + " %}{{ x }},{% else %}none{% endfor %}",
         "{% if " + _v + " %}T{% else %}F{% endif %}", "{% set a, b = " + _v + " %}{{ a }}{{ b }}")
    for _t in ["defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string", "mapping", "sequence", "iterable", "odd", "even"]:
        E("{{ %s is %s }}{{ %s is not %s }}" % (_v, _t, _v, _t))
_all(
     "{{ 1 + 2 * 3 - 4 / 2 }} {{ (1 + 2) * 3 }} {{ 1 ~ 2 + 3 }} {{ 'a' ~ 1 ~ none ~ true ~ 1.0 }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 == true }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 2) }}",
     "{{ 1 in [1, 2] }} {{ 'a' in 'abc' }} {{ 'z' not in 'abc' }} {{ 'a' in d }} {{ 2 in range(3) }} {{ not 1 in [2] }} {{ 5 not in range(3) }}", "{{ 1 in 'abc' }}", "{{ 'a' * 3 }}{{ 3 * 'ab' }}{{ [1] * 2 }}{{ 'a' * -1 }}",
     "{{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' + 'b' }}", "{{ yes + yes }} {{ yes * 2.5 }} {{ -yes }}", "{{ 1 if yes else 2 }} {{ 1 if no else 2 }} {{ 1 if no }}| {{ 1 if no else 2 if no else 3 }}", "{{ (1 if no).x }}",
     "{{ 'a' if no else 'b' if yes else 'c' }}", 
     )
# Attributes, items, slices.
_all("{{ d.a }} {{ d['a'] }} {{ d.b.c[0] }} {{ d.b['c'][-1] }} {{ d['x y'] }} {{ d.get('a') }} {{ d.get('z') }} {{ d.get('z', 5) }} {{ d.get('z', default=5) }}", "{{ d.items }}", "{{ d['items'] }} {{ d.items()|list }} {{ d.zzz }}|{{ d['zzz'] }}|", "{{ users[0].name }} {{ users.0.name }} {{ users[-1]['name'] }} {{ users[9] }}|",
     "{{ d.zzz.y }}", "{{ nil.x }}|{{ nil['x'] }}|{{ n.x }}|", "{{ xs['0'] }}|{{ xs[1.0] }}|{{ xs[true] }}|{{ s['upper']() }}|{{ s[0] }}{{ s[-1] }}{{ s[99] }}", "{{ s[1:4] }}|{{ s[:-3] }}|{{ s[::-1] }}|{{ s[::2] }}|{{ s[-3:] }}|{{ s[5:2] }}|{{ s[10:2:-2] }}|{{ s[-100:100] }}", "{{ u[::-1] }}|{{ u[3:6] }}|{{ u[-1] }}|{{ u|length }}|{{ u[13:] }}",
     "{{ xs[::-1] }}{{ xs[1:] }}{{ xs[:1] }}{{ xs[5:] }}{{ xs[-2:] }}{{ xs[::-2] }}{{ (1,2,3)[1:] }}{{ range(10)[2:8:2] }}{{ range(10)[::-1] }}{{ range(5)[1] }}", "{{ xs[::0] }}", "{{ xs['a':] }}", "{{ missing[1:] }}", "{{ d[1:] }}", "{{ xs[missing:] }}", "{{ xs[none:none] }}", "{{ xs[1, 2] }}|", "{{ {(1, 2): 'x'}[1, 2] }}", "{{ d[xs] }}|", "{{ {[]: 1} }}", "{{ {1: 'a', true: 'b', 1.0: 'c'} }}",
     "{{ xs.append(1) }}", "{{ d.update({}) }}", "{{ d.pop('a') }}", "{{ xs.append }}|{{ xs.append is defined }}", "{{ ''.__class__ }}|", "{{ ''.__class__.x }}", "{{ missing.x }}", "{{ missing['x'] }}", "{{ missing() }}", "{{ s() }}")
# String methods.
_all("{{ ws.strip() }}|{{ ws.lstrip() }}|{{ ws.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.strip('ab') }}|{{ '\n\na'.lstrip('\n') }}|{{ 'a'.strip(none) }}", "{{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ 'a b c'.split(none, 1) }} {{ 'a b c'.split(' ', maxsplit=1) }} {{ 'abc'.split('x') }} {{ ''.split() }} {{ ''.split(',') }}",
     "{{ 'a'.split('') }}", "{{ s.startswith('He') }} {{ s.endswith(('x', 'ld')) }} {{ s.startswith('l', 2) }} {{ s.startswith('') }} {{ s.endswith('He', 0, 2) }}", "{{ s.startswith(1) }}", 
     "{{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ 'ab'.replace('', '-') }} {{ 'aaa'.replace('aa', 'b') }} {{ 'é'.replace('', '.') }}", "{{ ', '.join(names) }} {{ '-'.join('abc') }} {{ ''.join([]) }}", "{{ ','.join([1]) }}",
     
     "{{ s.nothing() }}", "{{ s.upper(1) }}", "{{ s.split(',', foo=1) }}", "{{ s.strip(1) }}")
# Filters.
_all("{{ xs|tojson }} {{ d|tojson }} {{ u|tojson }} {{ q|tojson }} {{ html|tojson }}", "{{ d|tojson(indent=2) }}", "{{ d|tojson(indent=4) }}", "{{ tool|tojson }}", "{{ tool|tojson(indent=4) }}", "{{ {}|tojson(indent=2) }}{{ []|tojson(indent=2) }}{{ {'a': []}|tojson(indent=1) }}{{ [1]|tojson(indent=0) }}", "{{ u|tojson(ensure_ascii=True) }} {{ u|tojson(true) }} {{ '\x7f'|tojson }} {{ '\x7f'|tojson(true) }}",
     "{{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }} {{ d|tojson(separators=(',', ':')) }} {{ d|tojson(separators=(',', ':'), indent=1) }}", "{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}", "{{ {(1, 2): 3}|tojson }}", "{{ missing|tojson }}", "{{ {'a': missing}|tojson }}", "{{ (1, 2)|tojson }} {{ 1e100|tojson }} {{ 1.0|tojson }} {{ nil|tojson }}", "{{ (1e308 * 10)|tojson }}", "{{ range(2)|tojson }}", "{{ 'a\\u2028b\\x1f\\x00'|tojson }}",
     "{{ ws|trim }}| {{ 'xxax'|trim('x') }}", "{{ s|replace('l', 'L') }} {{ s|replace('l', 'L', 1) }} {{ 123|replace(2, 'x') }}", "{{ s|replace('l') }}",
     
     
     "{{ xs|sort }} {{ xs|sort(reverse=true) }} {{ names|sort }} {{ names|sort(case_sensitive=true) }} {{ users|sort(attribute='age')|map(attribute='name')|list }} {{ users|sort(attribute='admin,age')|length }}", "{{ mixed|sort }}", "{{ names|unique|list }} {{ ['a', 'A']|unique|list }} {{ ['a', 'A']|unique(true)|list }} {{ users|unique(attribute='admin')|map(attribute='name')|list }}", "{{ users|unique|list }}",
     "{{ xs|max }} {{ xs|min }} {{ names|min }} {{ users|max(attribute='age') }} {{ []|max }}| {{ 'hello'|max }}", "{{ mixed|max }}", "{{ xs|join }} {{ xs|join(', ') }} {{ users|join('/', attribute='name') }} {{ 'abc'|join('-') }} {{ d|join(',') }}", "{{ xs|first }} {{ xs|last }} {{ []|first }}|{{ []|last }}|{{ s|first }}{{ s|last }} {{ d|first }}",
     "{{ users|map(attribute='name')|list }} {{ users|map(attribute='address.city')|list }}", "{{ users|map(attribute='address.city', default='?')|list }} {{ users|map(attribute='tags.0', default='-')|list }}", "{{ names|map('nope')|list }}", "{{ names|map|list }}", "{{ names|map('replace', 'b', 'B')|list }} {{ xs|map('default', 1)|list }}",
     "{{ users|selectattr('admin')|map(attribute='name')|list }} {{ users|selectattr('age', '>', 26)|map(attribute='name')|join }} {{ users|rejectattr('admin')|map(attribute='name')|list }} {{ users|selectattr('name', 'equalto', 'Al')|list }} {{ users|selectattr('address', 'defined')|list|length }} {{ users|rejectattr('admin', 'undefined')|list|length }} {{ users|selectattr('name', 'in', ['bob', 'cy'])|map(attribute='name')|list }}", "{{ users|selectattr|list }}", "{{ xs|select('odd')|list }} {{ xs|reject('odd')|list }} {{ xs|select('gt', 1)|list }} {{ mixed|select|list }} {{ mixed|reject('none')|list }} {{ mixed|select('string')|list }} {{ xs|reject('equalto', 1)|join(', ') }}",
     "{{ xs|select('nope')|list }}", "{{ d|items|list }} {{ d|dictsort }} {{ {'b': 1, 'A': 2}|dictsort }} {{ {'b': 1, 'A': 2}|dictsort(true) }} {{ {'b': 1, 'A': 2}|dictsort(by='value') }} {{ {'b': 1, 'A': 2}|dictsort(reverse=true) }}", 
     "{{ [html|safe] }}", "{{ missing|default }}|{{ missing|default('x') }} {{ nil|default('x') }} {{ ''|default('x', true) }} {{ ''|d('x', boolean=true) }} {{ d.zz|default(d.a) }}", "{{ missing.x|default('y') }}", "{{ s|nofilter }}", "{% if no %}{{ s|nofilter }}{% endif %}ok", "{% if yes %}{{ s|nofilter }}{% endif %}", "{{ 1 if yes else s|nofilter }}", "{{ s|nofilter if no else 2 }}", "{{ (s|nofilter) if no }}", "{{ s|nofilter }}{{ 1 if yes }}", "{{ s is notest }}", "{{ s is notest if no else 1 }}", "{{ xs|length() }} {{ s|count }} {{ u|length }} {{ d|length }}", "{{ n|length }}", "{{ xs|first|string ~ 'x' }} {{ 5|string|length }}",
     "{% set g = xs|select('odd') %}{{ g|list }}{{ g|list }}{{ g is iterable }}{{ g is sequence }}", "{% set g = xs|map('string') %}{{ g|first }}{{ g|first }}{{ g|join }}", "{{ (xs|select)|length }}", "{{ (xs|select)|last }}", "{% if []|select %}T{% endif %}", "{{ 1 in (xs|select) }}")
# Tests.
_all("{{ n is defined and n > 3 }} {{ missing is defined or n }} {{ not missing is defined }}",
     "{{ n is string is string }}", "{{ n is defined(1) }}", "{{ 'x' is odd }}", "{{ n is number }}{{ yes is number }}{{ yes is integer }}{{ f is float }}", "{{ n is\n defined }}", "{{ xs is iterable and xs is not mapping and xs is not string }}")
# Control flow and scope.
_all("{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {{ loop.previtem is defined }}{{ loop.nextitem is undefined }};{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }};{% endfor %}", "{% for c in u %}{{ c }}.{% endfor %}",
     "{% for a, b in nested %}{{ a }}{{ b }};{% endfor %}", "{% for (a, b) in nested %}{{ a + b }};{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in xs %}{% endfor %}", "{% for a, b, c in nested %}{% endfor %}", "{% for x in [] %}x{% else %}empty{% endfor %}", "{% for x in missing %}x{% else %}empty{% endfor %}", "{% for x in nil %}{% endfor %}", "{% for x in 5 %}{% endfor %}", "{% for x in xs if x > 9 %}{{ x }}{% else %}none{% endfor %}",
     "{% set ns = namespace(stop=false) %}{% for x in [1, 2, 3] if not ns.stop %}{{ x }}{% set ns.stop = true %}{% endfor %}", "{% set ns = namespace(stop=false) %}{% for x in [1, 2, 3] if not ns.stop %}{{ x }}{{ loop.last }}{% set ns.stop = true %}{% endfor %}", "{% set ns = namespace(stop=false) %}{% for x in [1, 2, 3] if not ns.stop %}{{ loop.length }}{{ x }}{% set ns.stop = true %}{% endfor %}", "{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}e{% endfor %}", "{% break %}", "{% if yes %}{% continue %}{% endif %}", "{% for x in xs %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
     "{% set a = 1 %}{% for x in xs %}{% set a = x %}{{ a }}{% endfor %}{{ a }}", "{% set a = 1 %}{% for x in xs %}{{ a }}{% set a = a + x %}{{ a }};{% endfor %}", "{% set a = 1 %}{% if yes %}{% set a = 2 %}{% endif %}{{ a }}", "{% for x in xs %}{% if loop.first %}{% set a = x %}{% endif %}{{ a }};{% endfor %}", "{% for x in xs %}{{ n }}{% set n = x %}{{ n }};{% endfor %}{{ n }}", "{% for x in xs %}{% set n = x %}{% endfor %}{{ n }}", "{{ n }}{% for x in xs %}{{ n }}{% endfor %}{% set n = 1 %}", "{% if no %}{% set n = 1 %}{% endif %}{{ n }}", "{% if no %}{% set n = 1 %}{% else %}{% set n = 2 %}{% endif %}{{ n }}", 
     "{% for x in xs %}{% if x == 1 %}{% set n = x %}{% else %}{{ n }}{% endif %}{% endfor %}", "{% macro m() %}{{ n }}{% endmacro %}{% set n = 1 %}{{ m() }}", "{% set ns = namespace(x=1) %}{% for i in xs %}{% set ns.x = ns.x + i %}{% set ns.y = i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}|{{ ns['x'] }}", "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}", "{% set d.a = 1 %}", "{% set missing.a = 1 %}", "{% set ns = namespace() %}{% set ns.self = ns %}{{ ns.self.self is defined }}", "{% set x %}a{{ n }}{% endset %}{{ x }}{{ x|length }}", "{% set x, y = 1, 2 %}{{ x }}{{ y }}", "{% set x = 1, 2 %}{{ x }}", "{% set (x, y) = (1, 2) %}{{ x + y }}", "{% set x, y = [1] %}", "{% set none = 1 %}", "{% set 1 = 2 %}", "{% set x = %}",
     "{% for x in xs %}{{ loop }}{% endfor %}", "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aXa{% endfilter %}", "{% generation %}{{ n }}{% set w = 1 %}{% endgeneration %}{{ w }}", "{% for x in xs %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
     "{% if n == 7 %}a{% elif n %}b{% else %}c{% endif %}{% if no %}a{% elif n %}b{% else %}c{% endif %}{% if no %}a{% elif no %}b{% else %}c{% endif %}", "{% if n, %}t{% endif %}", "{% if %}{% endif %}", "{% if yes %}", "{% endif %}", "{% for x in xs %}", "{% foo %}", "{% if yes: %}x{% endif %}", "{% else %}", "{% if missing.x %}{% endif %}", "{% if missing %}a{% else %}b{% endif %}", "{% if 'x' %}{% set y = 'in' %}{% endif %}{{ y }}")
# Macros.
_all("{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, c='y') }} {{ m(b=1, a=0) }} {{ m() }}", "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(none) }}", "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(b=1) }}", "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(1, a=2) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(n) %}{% if n > 0 %}{{ n }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(5) }}",
     "{% call 1 %}{% endcall %}", "{% macro m(x) %}{{ x|upper }}{% endmacro %}{{ m('a') ~ m('b') }}{{ m('c')|length }}", "{{ m(1) }}{% macro m(x) %}{% endmacro %}", "{% macro m() %}{% set z = 1 %}{% endmacro %}{{ m() }}{{ z }}", "{% macro m(xs) %}{% for x in xs %}{{ x }}{% endfor %}{% endmacro %}{{ m([1, 2]) }}{{ xs }}", "{% for x in xs %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro m(a, **k) %}{% endmacro %}",
     "{{ dict(a=1, b=2) }} {{ dict([('a', 1)]) }} {{ dict({'a': 1}, b=2) }} {{ dict() }}", "{{ range(5, 0, -2)|list }} {{ range(0) }}|{{ range(0)|list }}", "{{ range(100001) }}", "{{ range(1, 2, 0) }}", "{{ range('a') }}", "{{ range() }}", "{{ range(2.0) }}", "{{ raise_exception('boom') }}", "{{ raise_exception() }}", "{{ strftime_now('%d %b %Y %H:%M:%S %j %A') }}", "{{ strftime_now(1) }}", "{{ namespace(1) }}", "{{ dict(1) }}", "{{ dict([(1,)]) }}")
# White space control, comments, raw.
_all("a\n{% if yes %}\nb\n{% endif %}\nc\n", "a\n  {% if yes %}  \n  b\n  {% endif %}  \nc", "a  {%- if yes -%}  \n b \n {%- endif -%} \n c", "a\n {%+ if yes +%}\nb\n {%+ endif %}\nc", "x {{- n -}} y {{ n }} z\n{{ n }}\n{{- n }}\n", "a{# comment #}b {#- c -#} d\n{# e #}\nf\n  {# g #}  \nh{#+ i +#}\nj", "{# unclosed", "{{ unclosed", "{% if yes", "{{ 'unclosed }}", "{{ '}}' }} {{ '{%' }} {{ '{{' }}", "{{ {'a': {'b': 1}}['a']['b'] }} {{ {'a':{}}}}", "{{ {'a': {}} }}", "{{ (1 }}", "{{ [1) }}", "{{ ) }}", "a\r\nb\rc{% if yes %}\r\nd{% endif %}\r\n", "\n\n", "x\n\n", "{{ n }}\n", "{% set x = 1 %}\n\n{{ x }}", "{{ n\n}}", "{%if yes%}a{%endif%}", "{%- if yes %}a{% endif -%}", "\u00a0 {%- if yes -%} \u2003 a{% endif %}", "{{-1}}", "{{+1}}", "{{ 1 -}} x", "{{ 1 +}} x", "  {{ 1 }}\n  {%- set x = 1 %}  y", "{% set x = 1 -%}\n\n   y", "}} %} #} { % {a}", "{ {n} }", "{{n}}{{n}}", "{#{{ n }}#}", "{#-#}x{#--#}", "a {#- b", "\t{% if yes %}\tx{% endif %}", "a {% if yes %} b {% endif %} c", "{{ 1 ! 2 }}", "{{ $ }}", "{{ a? }}", "{{ 1.e5 }}", "{{ 1..x }}", "{{ x.1abc }}", "{{ nested.0.1 }} {{ nested.1 }}", "{{ 5.5 }}{{ 5 .x }}|", "{{ é }}|{{ 変数 }}|", "{% set 変数 = 'ok' %}{{ 変数 }}", "{{ n is defined if yes else 2 }}", "{{ x if }}", "{{ not }}", "{{ n | }}", "{{ n. }}", "{{ n['a' }}", "{{ f(a=1, 2) }}", "{{ dict(a=1, a=2) }}", "{{ f(**a, *b) }}", "{{ [1 2] }}", "{{ {1} }}", "{{ 1 2 }}", "{{ n == }}", "{{ n = 1 }}", "{{ 'a' is 'b' }}", "{{ if }}|{{ for }}|{{ is }}", "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}")
_all("{% for x in xs %}{% continue %}{% else %}e{% endfor %}", "{% for x in xs %}{% if loop.last %}{% break %}{% endif %}{% else %}e{% endfor %}",
     "{% for x in xs %}{% break %}{% else %}e{% endfor %}", "{{ namespace(missing) }}", "{{ xs|sort(none) }}")
E("{{ '{' ~ n ~ '}' }}{{ xs | map('string') | join(', ') | upper if xs else 'none' }}")
_all("{{ 1e3 }} {{ 1.5e-7 }} {{ 0 }} {{ 10 }} {{ 2.0 }}", "{{ 7 // -2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ -7 % 3 }} {{ 1 / 3 }} {{ 4 / 2 }}", "{{ 0.1 + 0.2 }} {{ 1e308 * 10 }} {{ -f }}",
     "{{ s.upper() }} {{ s.lower() }} {{ 'straße'.upper() }} {{ 'ΑΣ ΣΑ'.lower() }} {{ 'İ'.lower() }} {{ 'ŉ ß ﬁ ǆ'|upper }} {{ u|upper }} {{ u|lower }}", "{{ s.find('o') }} {{ s.find('zz') }} {{ s.find('o', 5) }} {{ u.find('東') }} {{ s.find('') }} {{ s.find('W', 3, 9) }} {{ s.find('l', -3) }}",
     "{{ ' a b c '.split(none, 1) }} {{ 'a b  c'.split(none, 0) }}", "{{ '3.7'|int }} {{ 'x'|int }} {{ 'x'|int(9) }} {{ ' 12 '|int }} {{ 3.9|int }} {{ -3.9|int }} {{ nil|int }} {{ '1e3'|int }} {{ true|int }} {{ '-5'|int }} {{ '+7'|int }} {{ '1e400'|int(3) if no else 1 }}",
     "{{ names|map('upper')|join(',') }} {{ xs|map('string')|map('length')|list }} {{ ['1', 'x']|map('int')|list }}", "{{ html|safe }} {{ ('<'|safe) + '<' }} {{ '<' + ('&'|safe) }} {{ ('<'|safe) ~ '<' }} {{ ('a'|safe)|upper }}",
     "{{ 3 is odd }} {{ 1 is eq 1 }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 2 is ge 2 }} {{ 1 is in [1] }} {{ 1 is not in [1] }} {{ 'a' is in 'abc' }} {{ 1 is equalto 1.0 }} {{ 2 is greaterthan 1 }}",
     "{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}", "{% for k, v in d|items %}{{ loop.index }}{{ k }};{% endfor %}",
     "{% for x in xs if x > 1 %}{{ x }}{{ loop.index }}{{ loop.length }}{{ loop.last }};{% else %}none{% endfor %}", "{% for x in xs %}{% for y in xs %}{% if y == 1 %}{% break %}{% endif %}{{ x }}{{ y }}{{ loop.index }};{% endfor %}{{ loop.index }}{% endfor %}", "{{ loop }}|{{ loop.index }}",
     "{{ ('a',) | first }} {{ 'a' | upper | lower ~ 'B' }} {{ 1 + 2 | string }}", "{{ users|selectattr('age', 'gt', 26)|map(attribute='name')|join(', ') }}", "{% set ns = namespace(t='') %}{% for x in xs %}{% set ns.t = ns.t ~ x %}{% endfor %}{{ ns.t }}")
