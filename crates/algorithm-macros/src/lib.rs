//! The attribute `#[algorithm]`, which `functional-scaffold-algorithm` re-exports
//! and documents.

use std::env;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{format_ident, quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, Item, ItemFn, Lit, LitStr, Meta, Result, ReturnType,
    Safety, Signature, Type,
};

/// Makes a function the algorithm of its crate.
#[proc_macro_attribute]
pub fn algorithm(
    options: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    let item = TokenStream::from(item);
    let expanded = expand(options.into(), item.clone()).unwrap_or_else(|error| {
        // The function stays, so that its callers compile.
        let error = error.to_compile_error();
        quote!(#item #error)
    });
    expanded.into()
}

fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options = Options::parse(options)?;
    let function = match syn::parse2(item)? {
        Item::Fn(function) => function,
        other => return Err(Error::new_spanned(other, "an algorithm is a function")),
    };
    let input = input(&function.sig)?;
    let name = name(options.name, env::var("CARGO_PKG_NAME").ok())?;
    let version = match options.version {
        Some(version) => quote!(#version),
        None => quote!(::core::env!("CARGO_PKG_VERSION")),
    };
    let summary = match options.summary {
        Some(summary) => summary.value(),
        None => summary(&function.attrs),
    };
    let implementation = implementation(&function, input, &name, &version, &summary);
    let budget = options.budget.map(budget_section);
    Ok(quote!(#implementation #budget))
}

/// The function, and the component that calls it.
fn implementation(
    function: &ItemFn,
    input: &Type,
    name: &str,
    version: &TokenStream,
    summary: &str,
) -> TokenStream {
    let callee = &function.sig.ident;
    // Hygienic: the function may have the same name.
    let argument = format_ident!("input", span = Span::mixed_site());
    // The compiler reports a type that cannot be returned where it is written.
    let output = match &function.sig.output {
        ReturnType::Default => callee.span(),
        ReturnType::Type(_, output) => output.span(),
    };
    // It stays the macro's code for lints.
    let output = Span::call_site().located_at(output);
    let result = quote_spanned! {output=>
        ::functional_scaffold_algorithm::__private::Returned(#callee(#argument)).into_json()
    };
    quote! {
        #[allow(clippy::needless_pass_by_value, reason = "the input of an algorithm is owned")]
        #function

        const _: () = {
            use ::functional_scaffold_algorithm::__private as __scaffold;
            use __scaffold::Plain as _;

            enum __Algorithm {}

            impl __scaffold::Algorithm for __Algorithm {
                const NAME: &'static str = #name;
                const VERSION: &'static str = #version;
                const SUMMARY: &'static str = #summary;
                type Input = #input;

                fn run(#argument: #input) -> ::core::result::Result<
                    ::std::string::String,
                    ::functional_scaffold_algorithm::Error,
                > {
                    #result
                }
            }

            #[cfg(target_family = "wasm")]
            type __Component = __scaffold::Component<__Algorithm>;
            #[cfg(target_family = "wasm")]
            __scaffold::bindings::export!(
                __Component with_types_in ::functional_scaffold_algorithm::__private::bindings
            );

            // Natively, nothing else uses the function.
            _ = <__Algorithm as __scaffold::Algorithm>::run;
        };
    }
}

/// A custom section of the module, which `functional-scaffold-guard` reads.
fn budget_section(budget: u64) -> TokenStream {
    let bytes = budget.to_le_bytes();
    quote! {
        #[cfg(target_family = "wasm")]
        const _: () = {
            #[unsafe(link_section = "functional-scaffold-budget")]
            #[used]
            static BUDGET: [u8; 8] = [#(#bytes),*];
        };
    }
}

/// The options of the attribute.
#[derive(Default)]
struct Options {
    name: Option<LitStr>,
    version: Option<LitStr>,
    summary: Option<LitStr>,
    budget: Option<u64>,
}

impl Options {
    fn parse(tokens: TokenStream) -> Result<Self> {
        let mut options = Self::default();
        let parser = syn::meta::parser(|meta| {
            let option = if meta.path.is_ident("name") {
                &mut options.name
            } else if meta.path.is_ident("version") {
                &mut options.version
            } else if meta.path.is_ident("summary") {
                &mut options.summary
            } else if meta.path.is_ident("budget") {
                options.budget = Some(budget(&meta.value()?.parse()?)?);
                return Ok(());
            } else {
                return Err(meta.error("expected `name`, `version`, `summary` or `budget`"));
            };
            *option = Some(meta.value()?.parse()?);
            Ok(())
        });
        parser.parse2(tokens)?;
        Ok(options)
    }
}

/// The number of instructions that a budget allows.
fn budget(value: &Expr) -> Result<u64> {
    let number = match value {
        Expr::Lit(ExprLit {
            lit: Lit::Int(number),
            ..
        }) => number.base10_parse().ok(),
        _ => None,
    };
    number.filter(|number| *number > 0).ok_or_else(|| {
        let message = "a budget is the number of instructions that a call may take: an integer \
                       from 1 to 18446744073709551615, such as `budget = 5_000_000_000`";
        Error::new_spanned(value, message)
    })
}

/// The type of the function's argument, if the function can be an algorithm.
fn input(signature: &Signature) -> Result<&Type> {
    if let Some(token) = &signature.asyncness {
        let message = "an algorithm cannot be async: it has nothing to wait for";
        return Err(Error::new_spanned(token, message));
    }
    if let Safety::Unsafe(token) = &signature.safety {
        return Err(Error::new_spanned(token, "an algorithm cannot be unsafe"));
    }
    if !signature.generics.params.is_empty() {
        let message = "an algorithm cannot be generic: its input and output are described in full";
        return Err(Error::new_spanned(&signature.generics, message));
    }
    let mut arguments = signature.inputs.iter();
    let input = match (arguments.next(), arguments.next()) {
        (Some(FnArg::Receiver(receiver)), _) => {
            let message = "an algorithm is a free function: it has no `self`";
            return Err(Error::new_spanned(receiver, message));
        }
        (Some(FnArg::Typed(input)), None) => &*input.ty,
        (None, _) => {
            let message = "an algorithm has one argument, its input: a type that derives \
                           `Deserialize` and `JsonSchema`";
            return Err(Error::new(signature.paren_token.span.join(), message));
        }
        (Some(_), Some(_)) => {
            let message = "an algorithm has one argument, its input: make these the fields of a \
                           struct that derives `Deserialize` and `JsonSchema`";
            return Err(Error::new_spanned(&signature.inputs, message));
        }
    };
    if let Type::ImplTrait(_) = input {
        let message = "the input of an algorithm is a concrete type";
        return Err(Error::new_spanned(input, message));
    }
    if borrows(quote!(#input)) {
        let message = "the input of an algorithm owns its data: use `String` instead of `&str`, \
                       and `Vec<T>` instead of `&[T]`";
        return Err(Error::new_spanned(input, message));
    }
    Ok(input)
}

/// True if a type contains a reference, or a lifetime other than `'static`.
fn borrows(tokens: TokenStream) -> bool {
    let mut after_apostrophe = false;
    tokens.into_iter().any(|token| match token {
        TokenTree::Punct(punct) => {
            after_apostrophe = punct.as_char() == '\'';
            punct.as_char() == '&'
        }
        TokenTree::Ident(ident) => std::mem::take(&mut after_apostrophe) && ident != "static",
        TokenTree::Group(group) => borrows(group.stream()),
        TokenTree::Literal(_) => false,
    })
}

/// The algorithm's name: the one in the attribute, or the package's.
fn name(option: Option<LitStr>, package: Option<String>) -> Result<String> {
    const RULE: &str = "a lowercase letter, then lowercase letters, digits and hyphens; \
                        at most 64 characters";
    if let Some(literal) = option {
        let name = literal.value();
        if is_name(&name) {
            return Ok(name);
        }
        let message = format!("{name:?} cannot be the name of an algorithm, which is {RULE}");
        return Err(Error::new_spanned(literal, message));
    }
    let package = package.unwrap_or_default();
    if is_name(&package) {
        return Ok(package);
    }
    let fit = package.to_lowercase().replace('_', "-");
    let message = format!(
        "the package's name {package:?} cannot be the name of an algorithm, which is {RULE}; \
         set another one, such as `#[algorithm(name = {fit:?})]`"
    );
    Err(Error::new(Span::call_site(), message))
}

fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(is_allowed)
}

/// The first paragraph of the doc comment, as one line.
fn summary(attributes: &[Attribute]) -> String {
    let texts: Vec<String> = attributes.iter().filter_map(doc_text).collect();
    let lines = texts.iter().flat_map(|text| text.split('\n'));
    let lines = lines.map(str::trim).skip_while(|line| line.is_empty());
    let paragraph: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    paragraph.join(" ")
}

fn doc_text(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(doc) if doc.path.is_ident("doc") => match &doc.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    #[test]
    fn a_package_name_that_does_not_fit_is_refused_with_one_that_does() {
        let name_of = |package: &str| name(None, Some(package.to_owned()));
        assert_eq!(name_of("word-count-2").expect("it fits"), "word-count-2");
        let message = name_of("Word_Count").expect_err("underscore").to_string();
        assert!(
            message.contains(r#"the package's name "Word_Count" cannot"#),
            "{message}"
        );
        assert!(
            message.contains(r#"#[algorithm(name = "word-count")]"#),
            "{message}"
        );
        for unfit in ["", "2d", "-a", "a.b", "é", &"a".repeat(65)] {
            assert!(name_of(unfit).is_err(), "{unfit}");
        }
    }

    #[test]
    fn the_summary_is_the_first_paragraph_on_one_line() {
        let function: ItemFn = parse_quote! {
            #[doc = ""]
            /// Counts the words
            #[inline]
            /// of a text.
            ///
            /// Slowly.
            fn count() {}
        };
        assert_eq!(summary(&function.attrs), "Counts the words of a text.");
        assert_eq!(summary(&[]), "");
    }
}
