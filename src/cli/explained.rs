//! The account of one decision, for people.

use super::terminal::{NO_BREAK, Screen, Tone};
use crate::authoring::account::{Account, Passage, SeenPart, SeenPolicy};

/// Policies out of scope that are shown.
const OUTSIDE_SHOWN: usize = 5;

/// The account, for people.
pub(super) fn told(screen: &Screen, account: &Account) -> String {
    let mut text = format!("{}\n", screen.paint(Tone::Strong, &account.request));
    let tone = match account.decision.as_str() {
        "allow" => Tone::Good,
        "abandoned" => Tone::Warn,
        _ => Tone::Bad,
    };
    text += &format!("{}\n", screen.paint(tone, &format!("{} ({})", account.decision, account.code)));
    text.extend(account.reason.iter().map(|why| screen.wrapped("", why)));
    text += "\n";
    for stage in &account.stages {
        let mark = match stage.outcome {
            Passage::Passed => screen.paint(Tone::Good, "✓"),
            Passage::Refused => screen.paint(Tone::Bad, "✗"),
            Passage::NotReached => screen.paint(Tone::Faint, "·"),
        };
        text += &screen.wrapped_items(&format!("{mark} {:8} ", stage.stage.name()), &stage.facts);
    }
    let value = |name: &str, value: &str, source: &Option<String>| {
        let source = source.as_ref().map_or_else(String::new, |source| format!("   from{NO_BREAK}{source}"));
        screen.wrapped("    ", &format!("{name} = {value}{source}"))
    };
    if !account.entities.is_empty() {
        text += &heading(screen, "Entities");
    }
    for entity in &account.entities {
        let role =
            if entity.roles.is_empty() { String::new() } else { format!("   the {}", entity.roles.join(", the ")) };
        let parents =
            if entity.parents.is_empty() { String::new() } else { format!("   in {}", entity.parents.join(", ")) };
        text += &screen.wrapped("  ", &format!("{}{role}{parents}", entity.uid));
        text.extend(entity.attributes.iter().map(|it| value(&it.name, &it.value, &it.source)));
    }
    if !account.context.is_empty() {
        text += &heading(screen, "Context");
        text.extend(account.context.iter().map(|it| value(&it.name, &it.value, &it.source)));
    }
    for principal in &account.principals {
        text += &heading(screen, &format!("Policies, asked about the {}", principal.side));
        let (inside, outside): (Vec<_>, Vec<_>) = principal.policies.iter().partition(|it| it.in_scope);
        text.extend(inside.iter().map(|it| policy(screen, it)));
        text.extend(outside.iter().take(OUTSIDE_SHOWN).map(|it| policy(screen, it)));
        if let Some(more) = outside.len().checked_sub(OUTSIDE_SHOWN).filter(|more| *more > 0) {
            text += &format!("  … and {more} more that are about others; `--json` tells all\n");
        }
    }
    if !account.nearest_miss.is_empty() {
        text += &heading(screen, "Nearest miss");
        text.extend(account.nearest_miss.iter().map(|miss| screen.wrapped("  ", miss)));
    }
    text.extend(account.notes.iter().map(|note| screen.wrapped(&format!("{} ", screen.paint(Tone::Warn, "!")), note)));
    text
}

fn heading(screen: &Screen, text: &str) -> String {
    format!("\n{}\n", screen.paint(Tone::Strong, text))
}

fn policy(screen: &Screen, policy: &SeenPolicy) -> String {
    let (tone, said) = match (policy.applies, policy.effect) {
        ("true", "permit") => (Tone::Good, "applies"),
        ("true", _) => (Tone::Bad, "applies"),
        ("error", _) => (Tone::Bad, "cannot be evaluated"),
        _ if policy.in_scope => (Tone::Faint, "does not apply"),
        _ => (Tone::Faint, "is about others"),
    };
    let first = format!("  {} ", screen.paint(tone, policy.effect));
    let mut text = screen.wrapped(&first, &format!("{}   {said}", policy.id));
    text.extend(policy.scope.iter().map(|it| part(screen, it, 4)));
    if policy.in_scope {
        text.extend(policy.conditions.iter().map(|it| part(screen, it, 4)));
    }
    text
}

fn part(screen: &Screen, part: &SeenPart, indent: usize) -> String {
    let (tone, mark) = match part.is {
        "true" => (Tone::Good, "✓"),
        "error" => (Tone::Bad, "!"),
        _ => (Tone::Bad, "✗"),
    };
    let mark = if part.reached { screen.paint(tone, mark) } else { screen.paint(Tone::Faint, mark) };
    let blanks = " ".repeat(indent);
    let mut text = screen.wrapped(&format!("{blanks}{mark} "), &part.text);
    // An error in what Cedar does not get to says nothing.
    if part.is == "error" && !part.reached {
        return text;
    }
    let inner = format!("{blanks}    ");
    if part.is != "true" {
        text.extend(part.values.iter().map(|(name, value)| screen.wrapped(&inner, &format!("{name} is {value}"))));
    }
    text.extend(part.error.iter().map(|why| screen.wrapped(&inner, why)));
    let mark = screen.paint(Tone::Warn, "→");
    text.extend(part.hint.iter().map(|hint| screen.wrapped(&format!("{inner}{mark} "), hint)));
    if part.parts.len() > 1 || part.is != "true" {
        text.extend(part.parts.iter().map(|it| self::part(screen, it, indent.saturating_add(2))));
    }
    text
}
