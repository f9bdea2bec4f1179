//! Results of scenarios for machines (JUnit's XML) and coverage for people (a page of HTML).

use std::fmt::Write;

use super::{
    coverage::{Coverage, PolicyCoverage, Share},
    scenario::Played,
};
use crate::policy::{Effect, stores::DEFAULT};

/// `text` where markup stands; characters that XML cannot hold are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}

/// JUnit's XML of what was played, by file.
pub fn junit(files: &[(String, Vec<Played>)]) -> String {
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"portcullis\">\n".to_owned();
    for (file, played) in files {
        let failures = played.iter().filter(|it| !it.differences.is_empty()).count();
        let seconds: f64 = played.iter().map(|it| it.seconds).sum();
        let (file, tests) = (escaped(file), played.len());
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{file}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\" time=\"{seconds:.6}\">"
        );
        for it in played {
            let name = escaped(&it.name);
            let _ = write!(xml, "    <testcase classname=\"{file}\" name=\"{name}\" time=\"{:.6}\"", it.seconds);
            if it.differences.is_empty() {
                xml.push_str("/>\n");
                continue;
            }
            let message = escaped(&it.differences.join("; "));
            let all: Vec<_> = it.differences.iter().chain(&it.hints).map(|line| escaped(line)).collect();
            let _ =
                writeln!(xml, ">\n      <failure message=\"{message}\">{}</failure>\n    </testcase>", all.join("\n"));
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

const STYLE: &str = "
:root { color-scheme: light dark; --good: #1a7f37; --bad: #cf222e; --some: #9a6700; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem } h3 { font-size: 1rem; margin: 0 }
table { border-collapse: collapse; width: 100% } td, th { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
code, pre { font: 13px/1.5 ui-monospace, monospace } code { overflow-wrap: anywhere }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; margin: .6rem 0 }
.bar { background: var(--line); height: .5rem; border-radius: .25rem; overflow: hidden; min-width: 6rem } .bar i { display: block; height: 100%; background: var(--good) }
.good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 } .some { color: var(--some) }
section { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; margin: 1rem 0 } summary { cursor: pointer }
";

/// A page that shows what was exercised.
pub fn page(coverage: &Coverage) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Coverage of policies</title><style>{STYLE}</style></head><body>\n\
         <h1>Coverage of policies</h1>\n<table><tr><th>What</th><th class=\"n\">Exercised</th><th></th></tr>\n"
    );
    for (what, share) in [
        ("Policies that determined a decision", coverage.of_policies()),
        ("Routes that were found", coverage.of_routes()),
        ("Tests of conditions, seen to hold and to fail", coverage.of_branches()),
    ] {
        let _ = writeln!(html, "<tr><td>{what}</td><td class=\"n\">{share}</td><td>{}</td></tr>", bar(share));
    }
    html.push_str("</table>\n<h2>Routes</h2>\n<table><tr><th>Route</th><th class=\"n\">Scenarios</th></tr>\n");
    for (route, hits) in &coverage.routes {
        let _ = writeln!(html, "<tr><td><code>{}</code></td>{}</tr>", escaped(route), count(*hits));
    }
    html.push_str("</table>\n<h2>Policies</h2>\n");
    for ((store, id), policy) in &coverage.policies {
        let store =
            if &**store == DEFAULT { String::new() } else { format!(" <small>store {}</small>", escaped(store)) };
        section(&mut html, &format!("{}{store}", escaped(id)), policy);
    }
    html.push_str("</body></html>\n");
    html
}

fn section(html: &mut String, title: &str, policy: &PolicyCoverage) {
    let effect = match policy.effect {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
    };
    let (class, said) = match (policy.in_scope, policy.determined) {
        (0, _) => ("bad", "never in scope".to_owned()),
        (_, 0) => ("bad", format!("in scope {} times, {}", policy.in_scope, policy.idle())),
        (asked, determined) => ("good", format!("in scope {asked} times, determined {determined}")),
    };
    let _ = writeln!(
        html,
        "<section><h3><code>{title}</code> <small>{effect}</small></h3><p class=\"{class}\">{said}</p>\
         <details><summary>Text</summary><pre>{}</pre></details>",
        escaped(&policy.text)
    );
    if !policy.tests.is_empty() {
        html.push_str("<table><tr><th>Test</th><th class=\"n\">Held</th><th class=\"n\">Failed</th></tr>\n");
        for test in &policy.tests {
            let text = escaped(&test.text);
            let _ = writeln!(html, "<tr><td><code>{text}</code></td>{}{}</tr>", count(test.held), count(test.failed));
        }
        html.push_str("</table>\n");
    }
    html.push_str("</section>\n");
}

fn count(times: usize) -> String {
    match times {
        0 => "<td class=\"n bad\">never</td>".to_owned(),
        times => format!("<td class=\"n good\">{times}</td>"),
    }
}

fn bar(share: Share) -> String {
    format!("<div class=\"bar\"><i style=\"width:{}%\"></i></div>", share.percent())
}
