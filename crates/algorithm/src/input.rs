//! JSON text to input, and the schema of an input.

use schemars::{JsonSchema, consts::meta_schemas::DRAFT2020_12, generate::SchemaSettings};
use serde::de::DeserializeOwned;

use crate::Error;

/// Longest text of an error, of its path and of its message, in characters: both
/// may repeat a long field name.
const MAX_CHARS: usize = 200;

/// The input of an algorithm.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the input of an algorithm",
    label = "not both of `serde::Deserialize` and `schemars::JsonSchema` are implemented for `{Self}`",
    note = "derive both: `#[derive(serde::Deserialize, schemars::JsonSchema)]`"
)]
pub trait Input: Sized {
    /// Parses an input.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] with the path to the value.
    fn parse(json: &str) -> Result<Self, Error>;

    /// Its JSON Schema, as JSON text.
    fn schema() -> String;
}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned + JsonSchema> Input for T {
    fn parse(json: &str) -> Result<Self, Error> {
        // Only a failure is parsed with its path: tracking costs an allocation a field.
        serde_json::from_str(json).map_err(|error| Error::InvalidInput(explain::<T>(json, error)))
    }

    fn schema() -> String {
        schema::<T>()
    }
}

/// `path: message`, or the message alone where the whole input is wrong.
#[cold]
fn explain<T: DeserializeOwned>(json: &str, error: serde_json::Error) -> String {
    let deserializer = &mut serde_json::Deserializer::from_str(json);
    match serde_path_to_error::deserialize::<_, T>(deserializer) {
        Err(located) if located.path().iter().next().is_some() => {
            let (path, message) = (located.path().to_string(), message(located.inner()));
            format!("{path:.MAX_CHARS$}: {message:.MAX_CHARS$}")
        }
        // For instance, text after the value.
        _ => format!("{:.MAX_CHARS$}", message(&error)),
    }
}

/// The error without its position, which says little about text without lines.
fn message(error: &serde_json::Error) -> String {
    let mut message = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    if message.ends_with(&position) {
        message.truncate(message.len() - position.len());
    }
    message
}

/// The JSON Schema (draft 2020-12) of an input, as JSON text.
///
/// Subschemas are inline, so that it can be a part of any document. Only a type that
/// contains itself is under `$defs`; the service moves references to it.
///
/// # Examples
///
/// ```
/// use functional_scaffold_algorithm::schema;
///
/// let schema = schema::<Vec<bool>>();
/// assert!(schema.contains(r#""items":{"type":"boolean"}"#), "{schema}");
/// ```
#[must_use]
pub fn schema<T: JsonSchema>() -> String {
    let settings = SchemaSettings::draft2020_12().with(|it| it.inline_subschemas = true);
    let mut generator = settings.into_generator();
    let mut schema = generator.subschema_for::<T>();
    schema.insert("$schema".to_owned(), DRAFT2020_12.into());
    let definitions = generator.take_definitions(false);
    if !definitions.is_empty() {
        schema.insert("$defs".to_owned(), definitions.into());
    }
    serde_json::to_string(schema.as_value()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::Deserialize;
    use serde_json::{Value, value::RawValue};

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Number {
        number: u64,
        #[serde(default)]
        points: Vec<Point>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Point {
        #[allow(dead_code, reason = "only parsed")]
        x: f64,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[schemars(with = "u64")]
    #[serde(try_from = "&RawValue")]
    struct Digits(String);

    impl TryFrom<&RawValue> for Digits {
        type Error = String;

        fn try_from(json: &RawValue) -> Result<Self, String> {
            match json.get() {
                digits if digits.parse::<u64>().is_ok() => Ok(Self(digits.to_owned())),
                other => Err(format!("no digits: {other}")),
            }
        }
    }

    fn error<T: Input + Debug>(json: &str) -> String {
        match T::parse(json) {
            Err(Error::InvalidInput(message)) => message,
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn an_error_names_the_path_and_the_value() {
        let cases = [
            (
                r#"{"number": -1}"#,
                "number: invalid value: integer `-1`, expected u64",
            ),
            (r#"{"points": []}"#, "missing field `number`"),
            (
                r#"{"number": 1, "points": [{"x": 1}, {"x": null}]}"#,
                "points[1].x: invalid type: null, expected f64",
            ),
            ("17", "invalid type: integer `17`, expected struct Number"),
            (
                r#"{"number": 1, "base": 2}"#,
                "base: unknown field `base`, expected `number` or `points`",
            ),
            (r#"{"number": 1, "number": 2}"#, "duplicate field `number`"),
            (r#"{"number": 1} 2"#, "trailing characters"),
            (r#"{"number": "#, "number: EOF while parsing a value"),
        ];
        for (json, expected) in cases {
            assert_eq!(error::<Number>(json), expected, "{json}");
        }
    }

    #[test]
    fn raw_json_is_parsed_and_its_error_located() {
        let Digits(digits) = Digits::parse("18446744073709551615").expect("digits");
        assert_eq!(digits, u64::MAX.to_string());
        assert_eq!(
            error::<Vec<Digits>>(r#"[1, "x"]"#),
            r#"[1]: no digits: "x""#
        );
    }

    #[test]
    fn an_error_is_short_whatever_the_input() {
        let long = "x".repeat(1 << 20);
        let field = format!(r#"{{"number": 1, "{long}": 2}}"#);
        assert!(error::<Number>(&field).len() < 500);
        assert!(error::<Number>(&format!("{long:?}")).len() < 500);
        let deep = "[".repeat(1 << 20);
        assert!(error::<Vec<Vec<Value>>>(&deep).len() < 500);
    }

    #[test]
    fn a_schema_describes_the_input_in_one_document() {
        let schema: Value = serde_json::from_str(&schema::<Number>()).expect("JSON");
        let draft = "https://json-schema.org/draft/2020-12/schema";
        assert_eq!(schema["$schema"], draft);
        assert_eq!(schema["required"], serde_json::json!(["number"]));
        assert_eq!(schema["additionalProperties"], false);
        let point = &schema["properties"]["points"]["items"];
        assert_eq!(point["properties"]["x"]["type"], "number");
        assert_eq!(schema.get("$defs"), None);
    }

    #[test]
    fn a_type_that_contains_itself_is_referred_to() {
        #[derive(JsonSchema)]
        #[allow(dead_code, reason = "only described")]
        struct Tree {
            children: Vec<Tree>,
        }
        let schema: Value = serde_json::from_str(&schema::<Tree>()).expect("JSON");
        let reference = serde_json::json!({ "$ref": "#/$defs/Tree" });
        for tree in [&schema, &schema["$defs"]["Tree"]] {
            assert_eq!(tree["properties"]["children"]["items"], reference);
        }
    }
}
