//! Query parameters that decide something: only where every upstream reads the same.

use std::borrow::Cow;

use url::form_urlencoded;

use super::headers::Unclear;
use crate::base::names::same_parameter;

/// All values of the parameter `name`, decoded once.
///
/// # Errors
/// Where some frameworks would read others: with a `;`, which separates parameters for some; with a parameter that is one
/// with this to some (`name[]`, `Name`); or with what is not UTF-8.
pub fn values<'a>(query: Option<&'a str>, name: &str) -> Result<Vec<Cow<'a, str>>, Unclear> {
    let query = query.unwrap_or_default();
    if query.contains(';') {
        return Err(Unclear);
    }
    let mut values = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match key == name {
            true if value.contains('\u{fffd}') => return Err(Unclear),
            true => values.push(value),
            false if same_parameter(&key, name) => return Err(Unclear),
            false => {}
        }
    }
    Ok(values)
}
