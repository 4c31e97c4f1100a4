//! When a certificate ends: the one date in it that stops a client, read from PEM without a library.

use base64::Engine as _;

/// The end of the first certificate in `pem`, in seconds since 1970; `None` when it cannot be read.
pub(crate) fn ends_at(pem: &str) -> Option<i64> {
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).ok()?;
    // Certificate ▸ tbsCertificate ▸ [version], serial, algorithm, issuer, validity (RFC 5280 §4.1).
    let (_, certificate, _) = element(&der)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&0xa0) {
        fields = element(fields)?.2;
    }
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _, after_start) = element(validity)?;
    let (kind, end, _) = element(after_start)?;
    time(kind, std::str::from_utf8(end).ok()?)
}

/// A DER element's tag and content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` (tag 23, years 1950 to 2049) or `YYYYMMDDHHMMSSZ` (tag 24).
fn time(tag: u8, text: &str) -> Option<i64> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    let (year, rest) = match (tag, digits.len()) {
        (23, 12) => {
            let short: i64 = digits[..2].parse().ok()?;
            (if short < 50 { 2000 + short } else { 1900 + short }, &digits[2..])
        }
        (24, 14) => (digits[..4].parse().ok()?, &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let days = days_since_1970(year, part(0)?, part(2)?);
    Some(days * 86_400 + part(4)? * 3600 + part(6)? * 60 + part(8)?)
}

/// Days of the civil calendar (Howard Hinnant, `days_from_civil`).
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_date_are_read() {
        assert_eq!(time(23, "700101000000Z"), Some(0));
        assert_eq!(time(23, "261123140000Z"), Some(1_795_442_400));
        assert_eq!(time(24, "20261123140000Z"), Some(1_795_442_400));
        assert_eq!(time(24, "20500229120000Z"), time(24, "20500301120000Z"), "no check of the calendar");
        for bad in ["", "Z", "2611231400Z", "26112314000xZ", "261123140000"] {
            assert_eq!(time(23, bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        for pem in [
            "",
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "-----BEGIN CERTIFICATE-----\nMIT/////AAAA\n-----END CERTIFICATE-----",
        ] {
            assert_eq!(ends_at(pem), None, "{pem}");
        }
    }
}
