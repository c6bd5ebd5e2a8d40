//! Pieces of templates with what Jinja2 makes of them (`scripts/golden/jinja.py`), and templates that mean ill.

use serde_json::{Value, json};

use super::*;

fn render_within(template: &str, variables: &Value, limits: &Limits) -> Result<Rendered, Fault> {
    let given = variables.as_object().unwrap().iter().map(|(name, value)| (name.as_str(), value));
    Template::parse(template)?.render(given, limits)
}

fn render(template: &str, variables: &Value) -> Result<Rendered, Fault> {
    render_within(template, variables, &Limits::default())
}

/// Every piece of a file renders as recorded, or is refused where Jinja2 raises.
fn hold(file: &std::path::Path, key: &str) {
    let cases: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut variables = json!({
        "messages": cases["messages"], "tools": cases["tools"], "documents": null, "add_generation_prompt": true,
    });
    if let Some(more) = cases["variables"].as_object() {
        variables.as_object_mut().unwrap().extend(more.clone());
    }
    let pieces = cases[key].as_array().unwrap();
    assert!(pieces.len() >= 100);
    let mut wrong = Vec::new();
    for piece in pieces {
        let template = piece["template"].as_str().unwrap();
        let got = render(template, &variables);
        if got.as_ref().ok().map(|rendered| rendered.text.as_str()) != piece["expected"].as_str() {
            wrong.push(format!("{template}\n  wanted {}\n  got {got:?}", piece["expected"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), pieces.len(), wrong.join("\n"));
}

#[test]
fn pieces_render_as_jinja2_renders_them() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    hold(&root.join("tests/fixtures/jinja/pieces.json"), "pieces");
    let shared = root.join("../shared/cases/jinja.json");
    match shared.is_file() {
        true => hold(&shared, "snippets"),
        false => println!("the shared pieces are not at {}", shared.display()),
    }
}

#[test]
fn templates_that_mean_ill_are_stopped() {
    let none = json!({"messages": [{"role": "user", "content": "x"}]});
    for template in [
        "{{ messages|tojson(indent=1000000000) }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 'a'.ljust(10000000000) }}{{ 'a'.center(10000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'a'|center(1000000000) }}",
        "{{ 'a\\nb'|indent(1000000000) }}",
        "{{ '\\t'.expandtabs(1000000000) }}",
        "{{ 'a'.zfill(1000000000) }}",
        "{{ [1]|batch(1000000000, 'x')|list }}",
        "{{ [1]|slice(1000000000)|list }}",
        "{{ 9 ** 99999 }}",
        "{% set ns = namespace(t='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
        "{% set ns = namespace(t=[1, 2]) %}{% for i in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
        "{% set ns = namespace(t=[]) %}{% for i in range(100000) %}{% set ns.t = [ns.t] %}{% endfor %}",
        "{% set ns = namespace(t=[]) %}{% for i in range(100000) %}{% set ns.t = ns.t|map('list') %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% for i in range(9) %}{{ m() }}{% endfor %}{% endmacro %}{{ m() }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% macro a() %}{% call a() %}{{ caller() }}{% endcall %}{% endmacro %}{{ a() }}",
        "{% block b %}{{ self.b() }}{% endblock %}",
        "{{ 'ab'.replace('', 'x' * 60000000) }}",
        "{{ ('a' * 60000000).join('bbbb') }}",
        "{{ ('a,' * 1000000).split(',')|length }}",
        "{{ ('a ' * 1000000).split()|length }}",
        "{{ ('a\n' * 1000000).splitlines()|length }}",
        "{{ ('a' * 1000000)|list|length }}",
        "{{ ('ab' * 1000000).strip('bca' * 1000000) }}",
        "{% set ns = namespace(t=()) %}{% for i in range(99) %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}{{ {1: 1}[ns.t] }}",
    ] {
        // Less fuel than a real one has: this build is a slow one.
        let fault =
            render_within(template, &none, &Limits { fuel: 2_000_000, ..Limits::default() }).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Limit, "{template}: {fault}");
    }
    for depth in [1000, 100_000] {
        let (open, close) = ("(".repeat(depth), ")".repeat(depth));
        let deep = [
            format!("{{{{ {open}1{close} }}}}"),
            format!("{{{{ {}1 }}}}", "not ".repeat(depth)),
            format!("{{{{ {}1{} }}}}", "[".repeat(depth), "]".repeat(depth)),
            format!("{{{{ {}1 }}}}", "-".repeat(depth)),
            "{% if 1 %}".repeat(depth) + &"{% endif %}".repeat(depth),
        ];
        for template in deep {
            let _ = render(&template, &none);
        }
        let _ = render(&format!("{{{{ 1{} }}}}", "+1".repeat(depth)), &none);
        let _ = render(&format!("{{{{ x{} }}}}", "|list".repeat(depth)), &none);
        let _ = render(&format!("{{{{ x{} }}}}", ".a".repeat(depth)), &none);
    }
}

#[test]
fn what_a_template_holds_is_given_back() {
    // Things that hold themselves: a namespace, a macro, a macro in a namespace.
    let template = "{% set ns = namespace() %}{% set ns.a = ns %}{% macro m() %}{{ m }}{% endmacro %}{% set ns.m = m %}{{ ns.a is defined }}";
    assert_eq!(render(template, &json!({})).unwrap().text, "True");
    let chain = "{% set ns = namespace(f=0) %}{% for i in range(20000) %}{% set g = ns.f %}{% macro m() %}{{ g }}{% endmacro %}{% set ns.f = m %}{% endfor %}ok";
    assert_eq!(render(chain, &json!({})).unwrap().text, "ok");
}

#[test]
fn faults_say_their_line_and_their_own_sentence() {
    let fault = render("a\n{{ raise_exception('Roles must alternate!') }}", &json!({})).unwrap_err();
    assert_eq!(
        (fault.kind, &*fault.message, fault.line),
        (FaultKind::Raised, "Roles must alternate!", Some(2))
    );
    let fault = render("\n\n{{ nope.x }}", &json!({})).unwrap_err();
    assert_eq!((fault.kind, fault.to_string().as_str()), (FaultKind::Failed, "line 3: 'nope' is undefined"));
    let fault = render("{% if %}", &json!({})).unwrap_err();
    assert_eq!((fault.kind, fault.line), (FaultKind::Syntax, Some(1)));
}

#[test]
fn generation_blocks_are_found_in_the_text() {
    let template = "{% for m in ['á', 'b'] %}<{% generation %}{{ m }}!{% endgeneration %}>{% endfor %}";
    let rendered = render(template, &json!({})).unwrap();
    assert_eq!(rendered.text, "<á!><b!>");
    let parts: Vec<&str> = rendered.generation.iter().map(|(a, b)| &rendered.text[*a..*b]).collect();
    assert_eq!(parts, ["á!", "b!"]);
}

#[test]
fn the_time_is_written_as_strftime_writes_it() {
    // 2024-02-05 07:08:09 UTC, a Monday.
    let at = |format: &str| clock::strftime_at(format, 1_707_116_889);
    assert_eq!(
        at("%d %b %Y|%B %-d, %Y|%A %a|%H:%M:%S|%I %p|%j|%y"),
        "05 Feb 2024|February 5, 2024|Monday Mon|07:08:09|07 AM|036|24"
    );
    assert_eq!(at("%F %T|%e|%U %W %V|%%|%q"), "2024-02-05 07:08:09| 5|05 06 06|%|%q");
}
