//! The same as a web page: one file, with its style in it and nothing outside of it, no script, for light
//! and dark screens and for narrow ones.

use std::fmt::Write as _;

use super::standing::{Concern, Grade, OfClass, Plaintext, Standing};
use super::{boot, boots, suspensions};
use crate::commands::pair;
use crate::notes;

const STYLE: &str = include_str!("style.css");

pub(super) fn page(standing: &Standing) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let grade = standing.grade();
    let mut body = String::new();
    body.push_str(&header(host));
    body.push_str(&banner(grade, &standing.concerns()));
    body.push_str("<main>\n");
    for card in [
        policy(standing),
        objects(standing),
        plaintext(standing),
        at_boot(standing),
        recovery(standing),
        vault(standing),
        seconds(standing),
    ] {
        body.push_str(&card);
    }
    body.push_str("</main>\n");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Strongroom: {} on {}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body class=\"{}\">\n{body}<footer>strongroom {}, written {}. It does not renew itself.</footer>\n\
         </body>\n</html>\n",
        grade.name(),
        escaped(host),
        grade.name(),
        env!("CARGO_PKG_VERSION"),
        notes::date(notes::now()),
    )
}

fn header(host: &str) -> String {
    format!(
        "<header><h1>Strongroom</h1><p class=\"host\">{}</p></header>\n",
        escaped(host)
    )
}

fn banner(grade: Grade, concerns: &[Concern]) -> String {
    let (title, words) = match grade {
        Grade::Good => (
            "All is well",
            "The vault opens, and nothing waits to be done.",
        ),
        Grade::Attention => ("Something to do", "The vault opens. When you have time:"),
        Grade::Trouble => ("Trouble", "Look at this now:"),
    };
    let mut text = format!(
        "<section class=\"banner {}\" role=\"status\"><h2>{title}</h2><p>{words}</p>",
        grade.name()
    );
    if !concerns.is_empty() {
        text.push_str("<ul>");
        for concern in concerns {
            let _ = write!(
                text,
                "<li class=\"{}\">{}</li>",
                concern.grade.name(),
                with_code(&concern.what)
            );
        }
        text.push_str("</ul>");
    }
    text.push_str("</section>\n");
    text
}

fn policy(standing: &Standing) -> String {
    // Why not, is said above.
    let (allowed, _) = boot(standing);
    let mut inner = pairs(&[(
        "This boot",
        mark(allowed, if allowed { "allowed" } else { "refused" }),
    )]);
    if let Ok(state) = &standing.boot {
        for (branch, left) in suspensions(state) {
            let left = left.map_or("over".to_owned(), |left| format!("{left} restarts left"));
            let _ = write!(
                inner,
                "<p class=\"reason\">Suspended, {left}: whatever leaves PCR {} as it was may open the \
                 vault.</p>",
                branch.pcrs.selection()
            );
        }
        let _ = write!(
            inner,
            "<h3>Allowed boots ({} of 8)</h3><ul class=\"plain\">",
            state.branches.count()
        );
        for branch in state.branches.iter() {
            let _ = write!(
                inner,
                "<li>{} <span class=\"dim\">PCR {}</span></li>",
                escaped(&boots::words(branch)),
                branch.pcrs.selection()
            );
        }
        inner.push_str("</ul>");
        inner.push_str("<details><summary>PCRs as they are now</summary><ul class=\"plain\">");
        for pcr in state.present.selection().iter() {
            let value = state.present.get(pcr).map(hex::encode).unwrap_or_default();
            let _ = write!(inner, "<li><b>{pcr}</b> <code>{value}</code></li>");
        }
        inner.push_str("</ul></details>");
    }
    card("Boot policy", &inner)
}

fn objects(standing: &Standing) -> String {
    let mut rows = Vec::new();
    for (token, kinds) in &standing.objects {
        for (kind, count) in kinds {
            rows.push([
                escaped(token),
                escaped(&kind.replace('-', " ")),
                count.to_string(),
            ]);
        }
        if kinds.is_empty() {
            rows.push([
                escaped(token),
                "<span class=\"dim\">nothing</span>".to_owned(),
                "0".to_owned(),
            ]);
        }
    }
    let mut inner = table("", ["Token", "Kind", "Objects"], &rows);
    for bad in &standing.listing.damaged {
        let _ = write!(
            inner,
            "<p class=\"reason\">Damaged: <code>{}</code>: {}</p>",
            escaped(&bad.file.display().to_string()),
            escaped(&bad.reason)
        );
    }
    for token in &standing.listing.unreadable {
        let _ = write!(
            inner,
            "<p class=\"dim\">Token {token} is not this user's to read.</p>"
        );
    }
    card("Objects", &inner)
}

fn plaintext(standing: &Standing) -> String {
    let inner = match &standing.plaintext {
        None => return String::new(),
        Some(Err(reason)) => format!("<p class=\"reason\">Not known: {}</p>", escaped(reason)),
        Some(Ok(plaintext)) => classes(plaintext),
    };
    card("TrueNAS's database", &inner)
}

fn classes(plaintext: &Plaintext) -> String {
    let count = |class: &OfClass| {
        let number = class.in_plaintext.to_string();
        match (class.in_plaintext, class.watched) {
            (0, _) => number,
            (_, true) => format!("<strong class=\"bad\">{number}</strong>"),
            (_, false) => format!("<span class=\"dim\">not migrated</span> {number}"),
        }
    };
    let rows: Vec<_> = (plaintext.classes.iter())
        .map(|class| {
            [
                capital(class.class.as_str()),
                class.in_vault.to_string(),
                count(class),
            ]
        })
        .collect();
    let mut inner = table("counts", ["Class", "In the vault", "In plaintext"], &rows);
    let names: Vec<_> = (plaintext.classes.iter())
        .flat_map(|class| class.names.iter().map(move |name| (class.class, name)))
        .collect();
    if !names.is_empty() {
        inner.push_str("<details><summary>Which are in plaintext</summary><ul class=\"plain\">");
        for (class, name) in names {
            let _ = write!(
                inner,
                "<li><span class=\"dim\">{}</span> {}</li>",
                class.singular(),
                escaped(name)
            );
        }
        inner.push_str("</ul></details>");
    }
    let _ = write!(
        inner,
        "<p class=\"dim\">{} more values stay there, for TrueNAS reads them itself.</p>",
        plaintext.stays
    );
    inner
}

fn at_boot(standing: &Standing) -> String {
    let inner = match &standing.last_boot {
        None => "<p class=\"dim\">No hand-over of dataset keys was noted.</p>".to_owned(),
        Some(last) => {
            // Why not, is said above.
            let result = match (last.is_good(), last.handed_over) {
                (true, _) => "all handed over",
                (false, 0) => "none handed over",
                (false, _) => "not all handed over",
            };
            pairs(&[
                ("Result", mark(last.is_good(), result)),
                ("Dataset keys", last.handed_over.to_string()),
                ("When", notes::date(last.at)),
                (
                    "Which boot",
                    match last.is_present() {
                        Some(true) => "this one",
                        Some(false) => "one before",
                        None => "not known",
                    }
                    .to_owned(),
                ),
            ])
        }
    };
    card("Last boot", &inner)
}

fn recovery(standing: &Standing) -> String {
    let inner = match &standing.recovery_test {
        None => format!(
            "<p>{}</p><p class=\"dim\">{}</p>",
            mark(false, "never tried here"),
            with_code(
                "`strongroom recovery-test --recovery FILE` proves that it opens everything."
            )
        ),
        Some(tested) => pairs(&[
            (
                "Result",
                mark(
                    tested.failed == 0,
                    &if tested.failed == 0 {
                        "opens everything".to_owned()
                    } else {
                        format!("{} objects did not open", tested.failed)
                    },
                ),
            ),
            ("Opened", tested.opened.to_string()),
            (
                "Tried",
                format!("{}, {}", notes::ago(tested.at), notes::date(tested.at)),
            ),
            (
                "A backup too",
                if tested.backup { "yes" } else { "no" }.to_owned(),
            ),
        ]),
    };
    card("Recovery kit", &inner)
}

fn vault(standing: &Standing) -> String {
    let tpm = match &standing.tpm {
        Some(tpm) => format!(
            "{} {}, firmware {}{}",
            escaped(&tpm.manufacturer),
            escaped(&tpm.vendor),
            escaped(&tpm.firmware),
            if tpm.in_lockout { ", in lockout" } else { "" }
        ),
        None => "does not answer".to_owned(),
    };
    let inner = pairs(&[
        ("Id", format!("<code>{}</code>", escaped(&standing.vault))),
        (
            "Folder",
            format!(
                "<code>{}</code>",
                escaped(&standing.dir.display().to_string())
            ),
        ),
        ("TPM", tpm),
    ]);
    card("Vault and TPM", &inner)
}

fn seconds(standing: &Standing) -> String {
    let own = standing.boot.as_ref().ok().and_then(|state| state.second);
    if standing.seconds.is_empty() && own.is_none() {
        return String::new();
    }
    let mut inner = String::new();
    if let Some(id) = own {
        let _ = write!(inner, "<p>This is second machine <code>{id}</code>.</p>");
    }
    inner.push_str("<ul class=\"plain\">");
    for line in standing.seconds.iter().flat_map(pair::words) {
        let _ = write!(
            inner,
            "<li>{}</li>",
            with_code(line.trim_start_matches("Second").trim())
        );
    }
    inner.push_str("</ul>");
    card("Second machines", &inner)
}

fn card(title: &str, inner: &str) -> String {
    format!("<section class=\"card\"><h2>{title}</h2>{inner}</section>\n")
}

/// Names with their values, which are HTML already.
fn pairs(pairs: &[(&str, String)]) -> String {
    let mut text = "<dl>".to_owned();
    for (name, value) in pairs {
        let _ = write!(text, "<dt>{name}</dt><dd>{value}</dd>");
    }
    text.push_str("</dl>");
    text
}

/// A table whose cells are HTML already; its last column has numbers, with the class `counts` all but its
/// first.
fn table<const N: usize>(class: &str, head: [&str; N], rows: &[[String; N]]) -> String {
    let mut text = format!("<table class=\"{class}\"><thead><tr>");
    for name in head {
        let _ = write!(text, "<th scope=\"col\">{name}</th>");
    }
    text.push_str("</tr></thead><tbody>");
    for row in rows {
        text.push_str("<tr>");
        for cell in row {
            let _ = write!(text, "<td>{cell}</td>");
        }
        text.push_str("</tr>");
    }
    text.push_str("</tbody></table>");
    text
}

fn mark(good: bool, words: &str) -> String {
    let (class, sign) = if good { ("ok", "✓") } else { ("bad", "!") };
    format!(
        "<span class=\"mark {class}\"><span aria-hidden=\"true\">{sign}</span> {}</span>",
        escaped(words)
    )
}

/// Text with commands in back-ticks.
fn with_code(text: &str) -> String {
    let mut html = String::new();
    for (place, part) in text.split('`').enumerate() {
        if place % 2 == 1 {
            let _ = write!(html, "<code>{}</code>", escaped(part));
        } else {
            html.push_str(&escaped(part));
        }
    }
    html
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}
