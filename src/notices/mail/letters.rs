//! What the letters say: plain text, and the same in a little HTML in which everything that somebody else chose is escaped.

use std::fmt::Write as _;

use super::domain::{Letter, Recipient};
use crate::platform::clock::Timestamp;
use crate::platform::config::Secret;
use crate::platform::money::Money;

/// A reservation as its confirmation tells it.
#[derive(Clone, Debug)]
pub struct Confirmation {
    /// Its number.
    pub reservation: String,
    /// The concert's title.
    pub concert: String,
    /// When the performance begins.
    pub starts_at: Timestamp,
    /// The seats, each with its ticket's code.
    pub tickets: Vec<(String, String)>,
    /// What was paid.
    pub amount: Money,
    /// In which currency.
    pub currency: &'static str,
}

/// A reservation is confirmed.
#[must_use]
pub fn confirmation(to: Recipient, facts: &Confirmation) -> Letter {
    let Confirmation { reservation, concert, starts_at, tickets, amount, currency } = facts;
    let mut text = String::new();
    let mut html = String::new();
    for (seat, code) in tickets {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {seat}  {code}");
        let _ = write!(html, "<li>{}: <code>{}</code></li>", escaped(seat), escaped(code));
    }
    let amount = amount.0;
    let text = format!(
        "Hello {name},\n\nyour reservation is confirmed.\n\n{concert}\n{starts_at}\n\nSeats and ticket codes:\n{text}\n\
         Paid: {amount} {currency}\nReservation: {reservation}\n\nShow the ticket codes at the gate, and keep them to yourself.\n",
        name = to.name
    );
    let html = format!(
        "<p>Hello {},</p><p>your reservation is confirmed.</p><p><b>{}</b><br>{starts_at}</p><p>Seats and ticket codes:</p>\
         <ul>{html}</ul><p>Paid: {amount} {currency}<br>Reservation: {}</p>\
         <p>Show the ticket codes at the gate, and keep them to yourself.</p>",
        escaped(&to.name),
        escaped(concert),
        escaped(reservation)
    );
    Letter { to, subject: format!("Your reservation for {concert}"), text, html: page(&html) }
}

/// Asks whoever reads the mail of an address to say so.
#[must_use]
pub fn verification(to: Recipient, token: &Secret, base_url: &str, hours: u32) -> Letter {
    let says = "please confirm that this is your address.";
    let after = format!("The link works for {hours} hours. If you have not registered with us, ignore this mail.");
    with_link(to, "Confirm your address", says, &link(base_url, "verify", token), token, &after)
}

/// Lets whoever reads the mail of an address set a new password.
#[must_use]
pub fn password_reset(to: Recipient, token: &Secret, base_url: &str, minutes: u32) -> Letter {
    let says = "somebody, probably you, asked to set a new password for this address.";
    let after = format!(
        "The link works once, for {minutes} minutes. If it was not you, ignore this mail: your password stays as it is."
    );
    with_link(to, "Set a new password", says, &link(base_url, "reset", token), token, &after)
}

/// What follows the `#` is sent to no server, so that no log has it.
fn link(base_url: &str, page: &str, token: &Secret) -> String {
    format!("{}/{page}#{}", base_url.trim_end_matches('/'), token.expose())
}

fn with_link(to: Recipient, subject: &str, says: &str, link: &str, token: &Secret, after: &str) -> Letter {
    let token = token.expose();
    let text = format!("Hello {},\n\n{says}\n\n{link}\n\nCode: {token}\n\n{after}\n", to.name);
    let html = format!(
        "<p>Hello {},</p><p>{says}</p><p><a href=\"{link}\">{link}</a></p><p>Code: <code>{}</code></p><p>{after}</p>",
        escaped(&to.name),
        escaped(token),
        link = escaped(link)
    );
    Letter { to, subject: subject.to_owned(), text, html: page(&html) }
}

fn page(body: &str) -> String {
    format!("<!doctype html><html><body>{body}</body></html>")
}

/// As HTML has it, between tags and in quotes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(name: &str) -> Recipient {
        Recipient { email: "minji@example.com".into(), name: name.into() }
    }

    #[test]
    fn what_others_chose_is_escaped() {
        let facts = Confirmation {
            reservation: "R".into(),
            concert: "<script>alert(1)</script>".into(),
            starts_at: Timestamp::from_millis(0).unwrap(),
            tickets: vec![("A-1-1".into(), "CODE".into())],
            amount: Money(10_000),
            currency: "KRW",
        };
        let letter = confirmation(to("\"><img src=x onerror='a'>"), &facts);
        assert!(!letter.html.contains("<script") && !letter.html.contains("<img"), "{}", letter.html);
        assert!(letter.html.contains("&lt;script&gt;") && letter.html.contains("&quot;&gt;&lt;img"), "{}", letter.html);
        assert!(letter.text.contains("A-1-1  CODE") && letter.text.contains("10000 KRW"), "{}", letter.text);
        let token = Secret::new("a\"b");
        let letter = verification(to("A"), &token, "https://tickets.example.com/\"x", 48);
        assert!(!letter.html.contains("\"x/verify"), "{}", letter.html);
    }

    #[test]
    fn a_link_keeps_its_token_from_servers() {
        let letter = password_reset(to("A"), &Secret::new("token"), "https://tickets.example.com/", 30);
        assert!(letter.text.contains("https://tickets.example.com/reset#token\n"), "{}", letter.text);
        assert!(letter.text.contains("30 minutes") && !letter.subject.contains("token"));
    }
}
