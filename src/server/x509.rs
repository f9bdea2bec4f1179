//! What is written in a certificate (RFC 5280): whose it is, and by which names. Whoever reads it here must know why it is to be
//! believed.

use std::fmt::Write as _;

use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::{FromDer, ToDer},
    extensions::GeneralName,
    x509::{AttributeTypeAndValue, X509Name},
};

use crate::request::certificate::Said;

/// Names in a certificate, and attributes of its subject. One with more is not read.
const NAMES_MAX: usize = 100;

/// The attribute types that have names of their own (RFC 4514 section 3).
const TYPES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// Reads a certificate in DER; nothing, where it is none, or says what has no text.
pub fn read(der: &[u8]) -> Option<Said> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()?.map_or(&[][..], |names| &names.value.general_names);
    if !rest.is_empty() || names.len() > NAMES_MAX {
        return None;
    }
    let mut said = Said { subject: subject(certificate.subject())?, ..Said::default() };
    for name in names {
        match name {
            GeneralName::DNSName(name) => said.dns_names.push(name.to_ascii_lowercase()),
            GeneralName::URI(uri) => said.uris.push((*uri).to_owned()),
            _ => {}
        }
    }
    Some(said)
}

/// A name in one way alone: without its marks escaped, one attribute's value could be taken for another attribute.
fn subject(name: &X509Name<'_>) -> Option<String> {
    if name.iter_attributes().count() > NAMES_MAX {
        return None;
    }
    let relative: Vec<_> = name.iter_rdn().collect();
    let written = relative.into_iter().rev().map(|relative| {
        let attributes: Option<Vec<_>> = relative.iter().map(attribute).collect();
        attributes.map(|attributes| attributes.join("+"))
    });
    written.collect::<Option<Vec<_>>>().map(|relative| relative.join(","))
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let oid = attribute.attr_type().to_id_string();
    if let Some((_, name)) = TYPES.iter().find(|(known, _)| *known == oid) {
        return attribute.as_str().ok().map(|value| format!("{name}={}", escaped(value)));
    }
    let mut written = format!("{oid}=#");
    for byte in attribute.attr_value().to_der_vec().ok()? {
        write!(written, "{byte:02x}").ok()?;
    }
    Some(written)
}

/// RFC 4514 section 2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut written = String::with_capacity(value.len());
    for (index, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => written.extend(['\\', c]),
            '#' if index == 0 => written.extend(['\\', c]),
            ' ' if index == 0 || index == last => written.extend(['\\', c]),
            c if c.is_ascii_control() => written.push_str(&format!("\\{:02x}", u32::from(c))),
            c => written.push(c),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_looks_like_another_attribute() {
        for (value, is) in [
            ("plain text", "plain text"),
            ("a, CN=admin", "a\\, CN=admin"),
            ("a+OU=x", "a\\+OU=x"),
            (" #a ", "\\ #a\\ "),
            ("#a", "\\#a"),
            ("a\\", "a\\\\"),
            ("a\n\0", "a\\0a\\00"),
            ("Jürgen \"J\"", "Jürgen \\\"J\\\""),
            ("", ""),
            (" ", "\\ "),
        ] {
            assert_eq!(escaped(value), is);
        }
        assert_eq!(read(b"nothing"), None);
    }
}
