//! Placeholders: what stands where a secret was.

use strongroom::object::ObjectId;

const PREFIX: &str = "strongroom:v1:";

/// The object that a placeholder, `strongroom:v1:ID`, names; none if the text is no placeholder.
pub(crate) fn object_of(text: &str) -> Option<ObjectId> {
    text.strip_prefix(PREFIX)?.parse().ok()
}

/// Whether there is a placeholder within a text.
pub(crate) fn is_within(text: &str) -> bool {
    const ID_LEN: usize = 36;
    text.match_indices(PREFIX).any(|(start, _)| {
        let end = start + PREFIX.len() + ID_LEN;
        text.get(start..end).and_then(object_of).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_the_whole_text_or_within_one() {
        let id = "11111111-1111-4111-8111-111111111111";
        let whole = format!("strongroom:v1:{id}");
        assert_eq!(
            object_of(&whole).map(|id| id.to_string()).as_deref(),
            Some(id)
        );
        assert!(is_within(&whole) && is_within(&format!("rest:http://nas:{whole}@host/")));
        for none in [
            "",
            "strongroom:v1:",
            "strongroom:v2:11111111-1111-4111-8111-111111111111",
            id,
        ] {
            assert!(object_of(none).is_none() && !is_within(none), "{none}");
        }
        assert!(object_of(&format!(" {whole}")).is_none());
    }
}
