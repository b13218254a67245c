//! Tests that docs/schema.md and the wire types name the same fields.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use edr_wire::snapshot::Snapshot;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_json::Value;

/// Maps whose keys are chosen by the user and so are no fields.
const MAPS_OF_THE_USER: [&str; 1] = ["host.labels"];

#[test]
fn every_field_is_documented_and_every_documented_field_is_there() {
    let snapshot = Snapshot::deserialize(FilledValue { field: "" }).unwrap();
    // The decoded snapshot must equal the encoded snapshot: no field may be left out as a default.
    let packed = rmp_serde::to_vec_named(&snapshot).unwrap();
    assert!(rmp_serde::from_slice::<Snapshot>(&packed).unwrap() == snapshot);

    let mut encoded = BTreeSet::new();
    collect("", &serde_json::to_value(&snapshot).unwrap(), &mut encoded);
    let documented = documented(include_str!("../../docs/schema.md"));
    let undocumented: Vec<_> = encoded.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&encoded).collect();
    assert!(
        undocumented.is_empty() && stale.is_empty(),
        "not in docs/schema.md: {undocumented:#?}\nonly there: {stale:#?}"
    );
    assert!(encoded.contains("processes[].files[].offset") && encoded.contains("psad.sources[].targets[].ip"));
}

/// Returns the first column of every table of the snapshot's part, and checks that the other columns are filled. The
/// part ends before the tables of the collector.
fn documented(page: &str) -> BTreeSet<String> {
    let rows = page
        .lines()
        .take_while(|line| !line.starts_with("<!--"))
        .filter_map(|line| Some((line, line.strip_prefix("| `")?.split_once('`')?.0)));
    rows.map(|(line, field)| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert!(
            cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty() && *cell != "?"),
            "four columns, all filled: {line}"
        );
        field.to_owned()
    })
    .collect()
}

/// Collects the paths of all fields of a value, like `processes[].files[].fd`.
fn collect(path: &str, value: &Value, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(_) if MAPS_OF_THE_USER.contains(&path) => {}
        Value::Object(entries) => {
            for (name, value) in entries {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(&path, value, fields);
                fields.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(&format!("{path}[]"), item, fields)),
        _ => {}
    }
}

/// A deserializer that makes a value of any type with every field present and different from its default: each option
/// is `Some`, each list has one entry. A field added to a wire type is covered automatically.
#[derive(Clone, Copy)]
struct FilledValue {
    /// Name of the field to fill.
    field: &'static str,
}

impl<'de> Deserializer<'de> for FilledValue {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_u64(1)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_bool(true)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_char('x')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_str(match self.field {
            "host_id" => "00112233445566778899aabbccddeeff",
            "epoch" => "0123456789abcdef",
            _ => "x",
        })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_bytes(b"x")
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_bytes(b"x")
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_seq(Items { field: self.field, left: 1 })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_seq(Items { field: self.field, left: len })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(FieldNames { names: &["x"], next: 0 })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_map(FieldNames { names, next: 0 })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(Variant(variants[0]))
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 unit unit_struct tuple_struct identifier ignored_any
    }
}

struct Items {
    field: &'static str,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = de::value::Error;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Self::Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(FilledValue { field: self.field }).map(Some)
    }
}

struct FieldNames {
    names: &'static [&'static str],
    next: usize,
}

impl<'de> MapAccess<'de> for FieldNames {
    type Error = de::value::Error;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        let Some(name) = self.names.get(self.next) else { return Ok(None) };
        self.next += 1;
        let name: StrDeserializer<'_, Self::Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Self::Error> {
        seed.deserialize(FilledValue { field: self.names[self.next - 1] })
    }
}

/// A variant without content. The snapshot has only such variants.
struct Variant(&'static str);

impl<'de> EnumAccess<'de> for Variant {
    type Error = de::value::Error;
    type Variant = Self;

    fn variant_seed<V: de::DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Self::Error> {
        let name: StrDeserializer<'_, Self::Error> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant {
    type Error = de::value::Error;

    fn unit_variant(self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: de::DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Self::Error> {
        Err(de::Error::custom("a variant with content"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("a variant with content"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("a variant with content"))
    }
}
