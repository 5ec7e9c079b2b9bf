//! A ticket's code as a picture that gates can scan.

use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};

use crate::platform::error::Problem;

/// Width and height of the picture at least, in pixels of its own: it scales without loss.
const SIDE_MIN: u32 = 320;

/// The code as a QR code, with the quiet zone that scanners need. A seventh of it may be hidden or dirty.
pub(super) fn svg(code: &str) -> Result<String, Problem> {
    let qr = QrCode::with_error_correction_level(code, EcLevel::M).map_err(Problem::internal)?;
    Ok(qr.render::<svg::Color<'_>>().min_dimensions(SIDE_MIN, SIDE_MIN).quiet_zone(true).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_made_of_any_code() {
        for code in ["0123456789ABCDEFGHJKMNPQRS", &"aB-_".repeat(37)] {
            let svg = svg(code).unwrap();
            assert!(svg.contains("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
            assert!(!svg.contains(code), "the picture says it, not the text");
        }
        assert!(svg(&"x".repeat(5000)).is_err());
    }
}
