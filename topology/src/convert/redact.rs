//! Connection strings without their passwords. What is not understood is not shown at all.

/// Parameters whose values are secret.
const SECRET_PARAMETERS: [&str; 2] = ["password", "sslpassword"];

/// `dsn`, a URL or keywords and values, without passwords; empty when it cannot be read.
pub fn without_password(dsn: &str) -> String {
    match dsn.split_once("://") {
        Some((scheme, rest)) if matches!(scheme, "postgres" | "postgresql") => {
            format!("{scheme}://{}", url_without_password(rest))
        }
        _ => keywords_without_password(dsn).unwrap_or_default(),
    }
}

/// What follows `postgresql://`.
fn url_without_password(rest: &str) -> String {
    let (address, query) = match rest.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (rest, None),
    };
    let authority_end = address.find('/').unwrap_or(address.len());
    // A raw '/' or '@' in a password is malformed; look for the last '@' so that nothing of it stays.
    let user_end = address.rfind('@').unwrap_or(0);
    let (user, host) = match user_end {
        0 => ("", &address[address.starts_with('@').into()..]),
        end => (&address[..end.min(authority_end.max(end))], &address[end + 1..]),
    };
    let user = user.split_once(':').map_or(user, |(user, _)| user);
    let mut shown = if user.is_empty() { host.to_owned() } else { format!("{user}@{host}") };
    let public = |pair: &&str| !is_secret(pair.split_once('=').map_or(pair, |(name, _)| name));
    let pairs: Vec<&str> = query.into_iter().flat_map(|query| query.split('&')).filter(public).collect();
    if !pairs.is_empty() {
        shown.push('?');
        shown.push_str(&pairs.join("&"));
    }
    shown
}

fn is_secret(name: &str) -> bool {
    SECRET_PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// `host=a password='b c'`: pairs with optional spaces round the equals sign; values may be quoted, `\` escapes.
fn keywords_without_password(dsn: &str) -> Option<String> {
    let mut shown: Vec<&str> = Vec::new();
    let mut rest = dsn.trim_start();
    while !rest.is_empty() {
        let equals = rest.find('=')?;
        let name = rest[..equals].trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        let value_at = equals + 1 + (rest[equals + 1..].len() - rest[equals + 1..].trim_start().len());
        let end = value_at + value_length(&rest[value_at..])?;
        if !is_secret(name) {
            shown.push(rest[..end].trim());
        }
        rest = rest[end..].trim_start();
    }
    Some(shown.join(" "))
}

fn value_length(text: &str) -> Option<usize> {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(usize::from(quoted)) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return Some(at + 1),
            c if c.is_whitespace() && !quoted => return Some(at),
            _ => {}
        }
    }
    (!quoted && !escaped).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_leave() {
        for (dsn, shown) in [
            ("postgres://u:secret@h:5432/db", "postgres://u@h:5432/db"),
            ("postgresql://u@h/db?sslmode=disable", "postgresql://u@h/db?sslmode=disable"),
            ("postgresql://h/db", "postgresql://h/db"),
            (
                "postgresql://u:secret@h/db?sslmode=verify-full&sslrootcert=/ca.pem&sslcert=/c&sslkey=/k&sslpassword=secret",
                "postgresql://u@h/db?sslmode=verify-full&sslrootcert=/ca.pem&sslcert=/c&sslkey=/k",
            ),
            ("host=h sslmode=verify-ca sslrootcert='/my ca' password=secret", "host=h sslmode=verify-ca sslrootcert='/my ca'"),
            ("postgresql://u:se/c@r@h1:1,h2:2/db?password=secret&a=b", "postgresql://u@h1:1,h2:2/db?a=b"),
            ("postgresql://u:secret@h/db?PASSWORD=secret", "postgresql://u@h/db"),
            ("host=h password=secret user=u", "host=h user=u"),
            (r"host = h password = 'sec\'ret word' dbname='my db'", "host = h dbname='my db'"),
            (r"password=sec\ ret host=h", "host=h"),
            ("host=h password='secret", ""),
            ("secret", ""),
        ] {
            assert_eq!(without_password(dsn), shown, "{dsn}");
        }
    }
}
