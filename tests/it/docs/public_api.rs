//! The public surface of the library, read from the source: every exported name with its fields,
//! variants, methods and traits.
//!
//! The listing is in `public-api.txt`, so that each change of the surface is seen in review. After
//! an intended change, update it with `PROCLEDGER_BLESS=1 cargo test --all-features --test it
//! docs::public_api`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

use syn::{ImplItem, Item, Visibility};

use super::imports::{Crate, Module, is_of_tests, leaves_of};

const LISTING: &str = "tests/it/docs/public-api.txt";

/// What the listing says of one exported type: its definition, then what is implemented for it.
#[derive(Default)]
struct Exported {
    definition: Vec<Item>,
    functions: BTreeMap<String, ImplItem>,
    traits: BTreeMap<String, Item>,
}

/// An enum made by the macro `string_enum!` of `src/model/stored_enums.rs`.
struct StringEnum {
    definition: syn::ItemEnum,
}

impl syn::parse::Parse for StringEnum {
    fn parse(input: syn::parse::ParseStream<'_>) -> syn::Result<Self> {
        input.call(syn::Attribute::parse_outer)?;
        let attrs =
            vec![syn::parse_quote!(#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)])];
        let vis = input.parse()?;
        let ident: syn::Ident = input.parse()?;
        let content;
        let brace_token = syn::braced!(content in input);
        let mut definition = syn::ItemEnum {
            attrs,
            vis,
            enum_token: syn::Token![enum](ident.span()),
            ident,
            generics: syn::Generics::default(),
            brace_token,
            variants: syn::punctuated::Punctuated::new(),
        };
        while !content.is_empty() {
            let attrs = content.call(syn::Attribute::parse_outer)?;
            let ident = content.parse()?;
            content.parse::<syn::Token![=]>()?;
            content.parse::<syn::LitStr>()?;
            content.parse::<syn::Token![,]>()?;
            let fields = syn::Fields::Unit;
            definition.variants.push(syn::Variant { attrs, ident, fields, discriminant: None });
        }
        Ok(Self { definition })
    }
}

/// The items of a file, with those that `string_enum!` makes.
fn items(file: &syn::File) -> Vec<Item> {
    let mut items = Vec::new();
    for item in &file.items {
        match item {
            Item::Macro(call) if call.mac.path.is_ident("string_enum") => {
                let StringEnum { definition } = call.mac.parse_body().expect("an enum of words");
                let name = &definition.ident;
                let methods: syn::ItemImpl = syn::parse_quote! {
                    impl #name {
                        pub const ALL: &[Self] = &[];
                        pub fn as_str(self) -> &'static str {}
                        pub fn parse(word: &str) -> Option<Self> {}
                    }
                };
                let display: syn::ItemImpl = syn::parse_quote!(impl std::fmt::Display for #name {});
                items.extend([definition.into(), methods.into(), display.into()]);
            }
            item => items.push(item.clone()),
        }
    }
    items
}

fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        _ => return None,
    })
}

/// Keeps of the attributes what users see: derived traits, conditions, and obligations.
fn seen(attributes: &mut Vec<syn::Attribute>) {
    let kept = ["cfg", "derive", "must_use", "non_exhaustive"];
    attributes.retain(|attribute| kept.iter().any(|name| attribute.path().is_ident(name)));
}

fn is_hidden(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("doc")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("hidden"))
    })
}

/// Removes private fields, values, bodies and comments.
fn surface(item: &mut Item) {
    match item {
        Item::Const(item) => {
            seen(&mut item.attrs);
            item.expr = syn::parse_quote!(_);
        }
        Item::Enum(item) => {
            seen(&mut item.attrs);
            for variant in &mut item.variants {
                seen(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| seen(&mut field.attrs));
            }
        }
        Item::Fn(item) => {
            seen(&mut item.attrs);
            item.block.stmts.clear();
        }
        Item::Struct(item) => {
            seen(&mut item.attrs);
            let is_public = |field: &syn::Field| matches!(field.vis, Visibility::Public(_));
            match &mut item.fields {
                syn::Fields::Named(fields) => {
                    let all = std::mem::take(&mut fields.named);
                    let private = !all.iter().all(is_public);
                    fields.named = all.into_iter().filter(is_public).collect();
                    if private {
                        fields.named.push(syn::parse_quote!(private: _));
                    }
                }
                syn::Fields::Unnamed(fields) => {
                    for field in fields.unnamed.iter_mut().filter(|field| !is_public(field)) {
                        field.ty = syn::parse_quote!(_);
                        field.vis = Visibility::Inherited;
                    }
                }
                syn::Fields::Unit => {}
            }
            item.fields.iter_mut().for_each(|field| seen(&mut field.attrs));
        }
        Item::Type(item) => seen(&mut item.attrs),
        _ => {}
    }
}

/// Returns the last segment of the type that an `impl` is for.
fn implemented_for(item: &syn::ItemImpl) -> Option<String> {
    let mut ty = &*item.self_ty;
    while let syn::Type::Reference(reference) = ty {
        ty = &reference.elem;
    }
    let syn::Type::Path(path) = ty else { return None };
    path.path.segments.last().map(|segment| segment.ident.to_string())
}

fn add_methods(exported: &mut Exported, item: &syn::ItemImpl) {
    for method in &item.items {
        let mut method = method.clone();
        let name = match &mut method {
            ImplItem::Fn(function) => {
                if !matches!(function.vis, Visibility::Public(_)) || is_hidden(&function.attrs) {
                    continue;
                }
                seen(&mut function.attrs);
                function.block.stmts.clear();
                function.sig.ident.to_string()
            }
            ImplItem::Const(constant) => {
                if !matches!(constant.vis, Visibility::Public(_)) {
                    continue;
                }
                seen(&mut constant.attrs);
                constant.expr = syn::parse_quote!(_);
                constant.ident.to_string()
            }
            _ => continue,
        };
        exported.functions.insert(name, method);
    }
}

fn text(items: Vec<Item>) -> String {
    prettyplease::unparse(&syn::File { shebang: None, attrs: Vec::new(), items })
}

/// Returns the exported names, each with the module that defines it.
fn exported(library: &Crate) -> BTreeMap<String, Module> {
    let mut all = BTreeMap::new();
    let public_modules = [Vec::new(), vec!["fleet".to_owned()], vec!["keeper".to_owned()]];
    for module in &public_modules {
        for item in &library.files[module].items {
            let prefix = module.join("::") + if module.is_empty() { "" } else { "::" };
            match item {
                Item::Use(item) if matches!(item.vis, Visibility::Public(_)) => {
                    let mut leaves = Vec::new();
                    leaves_of(&item.tree, &mut Vec::new(), &mut leaves);
                    for (visible, path) in leaves {
                        let defined = library.defined_in(module, &path, 0);
                        let defined = defined.unwrap_or_else(|| panic!("{path:?} is not ours"));
                        all.insert(format!("{prefix}{visible}"), defined);
                    }
                }
                Item::Mod(item) if matches!(item.vis, Visibility::Public(_)) => {
                    let known = public_modules.contains(&vec![item.ident.to_string()]);
                    assert!(known || is_hidden(&item.attrs), "{}: list it here", item.ident);
                }
                Item::Fn(item) if matches!(item.vis, Visibility::Public(_)) => {
                    all.insert(format!("{prefix}{}", item.sig.ident), module.clone());
                }
                _ => {}
            }
        }
    }
    all
}

fn listing() -> String {
    let library = Crate::read("src/lib.rs", &["bin"]);
    let names = exported(&library);
    let mut types: BTreeMap<&String, Exported> = BTreeMap::new();
    let (mut private_traits, mut private_types) = (Vec::new(), BTreeSet::new());
    for (module, file) in library.files.iter().filter(|(module, _)| !is_of_tests(module)) {
        for item in items(file) {
            let Some(name) = name_of(&item) else { continue };
            if matches!(item, Item::Trait(_)) && !names.contains_key(&name) {
                private_traits.push(name.clone());
            }
            let ends_with = |visible: &str| visible.rsplit("::").next() == Some(&name);
            let visible = names.iter().find(|(visible, at)| ends_with(visible) && *at == module);
            match visible {
                Some((visible, _)) => {
                    let mut item = item;
                    surface(&mut item);
                    types.entry(visible).or_default().definition.push(item);
                }
                // A private type with the name of an exported one lives in another room.
                None => _ = private_types.insert((module.first(), name)),
            }
        }
    }
    for (module, file) in library.files.iter().filter(|(module, _)| !is_of_tests(module)) {
        for item in items(file) {
            let Item::Impl(mut item) = item else { continue };
            let Some(name) = implemented_for(&item) else { continue };
            let Some(visible) = names.keys().find(|visible| **visible == name) else { continue };
            if private_types.contains(&(module.first(), name)) {
                continue;
            }
            let exported = types.entry(visible).or_default();
            match &item.trait_ {
                None => add_methods(exported, &item),
                Some((_, path, _)) => {
                    let last = path.segments.last().expect("a trait").ident.to_string();
                    if !private_traits.contains(&last) {
                        item.items.clear();
                        item.attrs.clear();
                        let line = text(vec![item.clone().into()]);
                        exported.traits.insert(line, item.into());
                    }
                }
            }
        }
    }
    let mut listing = String::new();
    for (name, module) in &names {
        let found = types.remove(name).unwrap_or_default();
        if found.definition.is_empty() && name.contains("::") {
            writeln!(listing, "// {name}, of {}\n", module.join("::")).expect("a string");
            continue;
        }
        assert_eq!(found.definition.len(), 1, "{name}: not found once in {module:?}");
        let ty = ident_of(name);
        let mut items = found.definition;
        if !found.functions.is_empty() {
            let mut methods: syn::ItemImpl = syn::parse_quote!(impl #ty {});
            methods.items = found.functions.into_values().collect();
            items.push(methods.into());
        }
        items.extend(found.traits.into_values());
        listing += &text(items);
        listing.push('\n');
    }
    listing
}

fn ident_of(name: &str) -> syn::Ident {
    syn::parse_str(name.rsplit("::").next().expect("a name")).expect("an identifier")
}

#[test]
fn the_public_api_matches_its_listing() {
    let listing = listing();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(LISTING);
    if std::env::var_os("PROCLEDGER_BLESS").is_some() {
        fs::write(&path, &listing).expect("written");
    }
    let listed = fs::read_to_string(&path).expect("UTF-8");
    let (now, then): (Vec<_>, Vec<_>) = (listing.lines().collect(), listed.lines().collect());
    let added: Vec<_> = now.iter().filter(|line| !then.contains(line)).collect();
    let removed: Vec<_> = then.iter().filter(|line| !now.contains(line)).collect();
    assert!(
        listing == listed,
        "the public surface has changed.\nNew: {added:#?}\nGone: {removed:#?}\nIf it is meant, say so in \
         CHANGELOG.md, and write {LISTING} anew: \
         PROCLEDGER_BLESS=1 cargo test --all-features --test it docs::public_api"
    );
}
