#include "storage/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using Json = nlohmann::json;

// Names in messages: cut, and without line breaks or control characters.
std::string Quoted(absl::string_view name) {
  return absl::StrCat("'", absl::CHexEscape(name.substr(0, 200)), "'");
}

absl::Status Damaged(absl::string_view file, absl::string_view what) {
  return absl::DataLossError(
      absl::StrCat(file, ": ", what, "; the file is damaged or not safetensors"));
}

// Takes the parser's events as they come. No JSON tree is built: a hostile header of 100 MB would
// take gigabytes.
class HeaderHandler final : public Json::json_sax_t {
 public:
  // `data_begin`, `file_bytes`: where the data lies.
  HeaderHandler(absl::string_view file, uint64_t data_begin, uint64_t file_bytes)
      : file_(file), data_begin_(data_begin), file_bytes_(file_bytes) {}

  absl::Status status() const { return status_; }
  TensorMap TakeTensors() { return std::move(tensors_); }

  bool null() override { return Scalar(); }
  bool boolean(bool) override { return Scalar(); }
  bool number_integer(number_integer_t value) override {
    if (skipped_ > 0 || depth_ != kList) return Scalar();
    return FailField(absl::StrCat("holds the negative number ", value));
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (skipped_ > 0 || depth_ != kList) return Scalar();
    (field_ == kShape ? entry_.shape : offsets_).push_back(value);
    return true;
  }
  bool number_float(number_float_t, const string_t& text) override {
    if (skipped_ > 0 || depth_ != kList) return Scalar();
    return FailField(absl::StrCat("holds ", text.substr(0, 40), ", not a whole number below 2^64"));
  }
  bool string(string_t& value) override {
    if (skipped_ > 0 || depth_ != kEntry || field_ != kDtype) return Scalar();
    entry_.dtype = value;
    return true;
  }
  bool binary(binary_t&) override { return Scalar(); }

  bool start_object(size_t) override {
    if (skipped_ > 0) return Skip();
    if (depth_ == kOutside) {
      depth_ = kHeader;
      return true;
    }
    if (depth_ == kHeader) {
      if (name_ == kMetadata) return Skip();
      entry_ = {};
      offsets_.clear();
      seen_ = 0;
      depth_ = kEntry;
      return true;
    }
    return depth_ == kEntry && field_ == kUnknown ? Skip() : FailField("is of the wrong type");
  }

  bool key(string_t& key) override {
    if (skipped_ > 0) return true;
    if (depth_ == kHeader) {
      name_ = key;
      const bool repeated =
          key == kMetadata ? std::exchange(metadata_seen_, true) : tensors_.count(key) != 0;
      return repeated ? FailTensor("is there twice") : true;
    }
    field_ = FieldOf(key);
    if (field_ == kUnknown) return true;
    if (seen_ & field_) return FailField("is there twice");
    seen_ |= field_;
    return true;
  }

  bool end_object() override {
    if (skipped_ > 0) return Unskip();
    if (depth_ == kHeader) {
      depth_ = kOutside;
      return true;
    }
    depth_ = kHeader;
    return FinishEntry();
  }

  bool start_array(size_t) override {
    if (skipped_ > 0) return Skip();
    if (depth_ == kEntry && field_ == kUnknown) return Skip();
    if (depth_ != kEntry || field_ == kDtype) return Scalar();
    depth_ = kList;
    return true;
  }

  bool end_array() override {
    if (skipped_ > 0) return Unskip();
    depth_ = kEntry;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const Json::exception&) override {
    return Fail(absl::StrCat("the header is not JSON at its byte ", position));
  }

 private:
  enum Depth { kOutside, kHeader, kEntry, kList };
  enum Field : unsigned { kUnknown = 0, kDtype = 1, kShape = 2, kOffsets = 4 };
  static constexpr const char* kMetadata = "__metadata__";
  static constexpr int kMaxSkipped = 64;

  static Field FieldOf(const std::string& key) {
    if (key == "dtype") return kDtype;
    if (key == "shape") return kShape;
    if (key == "data_offsets") return kOffsets;
    return kUnknown;
  }
  static const char* FieldName(unsigned field) {
    return field == kDtype ? "dtype" : field == kShape ? "shape" : "data_offsets";
  }

  bool Fail(absl::string_view what) {
    if (status_.ok()) status_ = Damaged(file_, what);
    return false;
  }
  bool FailTensor(absl::string_view what) {
    return Fail(absl::StrCat("tensor ", Quoted(name_), " ", what));
  }
  bool FailField(absl::string_view what) {
    return FailTensor(absl::StrCat("is impossible: its ", FieldName(field_), " ", what));
  }

  // Enters or leaves a value that the format does not define.
  bool Skip() { return ++skipped_ <= kMaxSkipped ? true : Fail("the header is nested too deeply"); }
  bool Unskip() {
    --skipped_;
    return true;
  }

  // A value for which there is no place except where values are ignored.
  bool Scalar() {
    if (skipped_ > 0 || (depth_ == kEntry && field_ == kUnknown)) return true;
    if (depth_ == kOutside) return Fail("the header is not a JSON object");
    if (depth_ == kHeader) return FailTensor("is not described by a JSON object");
    return FailField("is of the wrong type");
  }

  bool FinishEntry() {
    for (const Field field : {kDtype, kShape, kOffsets}) {
      if (!(seen_ & field)) return FailTensor(absl::StrCat("has no ", FieldName(field)));
    }
    field_ = kOffsets;
    if (offsets_.size() != 2) {
      return FailField(absl::StrCat("holds ", offsets_.size(), " numbers, not 2"));
    }
    const uint64_t begin = offsets_[0];
    const uint64_t end = offsets_[1];
    if (begin > end) return FailField(absl::StrCat("ends at ", end, ", before ", begin));
    const uint64_t data_bytes = file_bytes_ - data_begin_;
    if (end > data_bytes) {
      return FailField(
          absl::StrCat("ends at ", end, ", past the file's ", data_bytes, " bytes of data"));
    }
    if (const uint32_t bits = DtypeBits(entry_.dtype);
        bits != 0 && !CheckBytes(bits, end - begin)) {
      return false;
    }
    entry_.begin = data_begin_ + begin;
    entry_.end = data_begin_ + end;
    tensors_.emplace(name_, std::move(entry_));
    return true;
  }

  bool CheckBytes(uint64_t bits, uint64_t bytes) {
    uint64_t total = bits;
    for (const uint64_t size : entry_.shape) {
      if (__builtin_mul_overflow(total, size, &total)) {
        field_ = kShape;
        return FailField(absl::StrCat(FormatShape(entry_.shape), " overflows 64 bits"));
      }
    }
    if (total % 8 == 0 && total / 8 == bytes) return true;
    return FailField(absl::StrCat("holds ", bytes, " bytes, but ", Quoted(entry_.dtype), " ",
                                  FormatShape(entry_.shape), " takes ", total / 8));
  }

  const absl::string_view file_;
  const uint64_t data_begin_;
  const uint64_t file_bytes_;
  absl::Status status_;
  TensorMap tensors_;
  bool metadata_seen_ = false;
  Depth depth_ = kOutside;
  int skipped_ = 0;
  std::string name_;
  Field field_ = kUnknown;
  unsigned seen_ = 0;
  TensorInfo entry_;
  std::vector<uint64_t> offsets_;
};

absl::Status CheckOverlaps(absl::string_view file, const TensorMap& tensors) {
  std::vector<const TensorMap::value_type*> order;
  for (const auto& tensor : tensors) {
    if (tensor.second.bytes() > 0) order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return a->second.begin < b->second.begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->second.begin < order[i - 1]->second.end) {
      return Damaged(file, absl::StrCat("tensors ", Quoted(order[i - 1]->first), " and ",
                                        Quoted(order[i]->first), " overlap"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t DtypeBits(absl::string_view dtype) {
  struct Dtype {
    absl::string_view name;
    uint32_t bits;
  };
  static constexpr std::array<Dtype, 20> kDtypes = {
      {{"F8_E4M3", 8}, {"F8_E8M0", 8}, {"BF16", 16},       {"F16", 16},        {"F32", 32},
       {"F64", 64},    {"F8_E5M2", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F4", 4},
       {"BOOL", 8},    {"U8", 8},      {"I8", 8},          {"U16", 16},        {"I16", 16},
       {"U32", 32},    {"I32", 32},    {"U64", 64},        {"I64", 64},        {"C64", 64}}};
  for (const Dtype& known : kDtypes) {
    if (known.name == dtype) return known.bits;
  }
  return 0;
}

std::string FormatShape(const std::vector<uint64_t>& shape) {
  constexpr size_t kShown = 8;
  const auto shown_end = shape.begin() + static_cast<ptrdiff_t>(std::min(shape.size(), kShown));
  return absl::StrCat("[", absl::StrJoin(shape.begin(), shown_end, ", "),
                      shape.size() > kShown ? ", …]" : "]");
}

absl::StatusOr<uint64_t> ParseSafetensorsPrefix(absl::string_view file, absl::string_view prefix,
                                                uint64_t file_bytes) {
  if (file_bytes < kSafetensorsPrefixBytes || prefix.size() < kSafetensorsPrefixBytes) {
    return Damaged(file, absl::StrCat("is only ", std::min<uint64_t>(file_bytes, prefix.size()),
                                      " bytes long"));
  }
  uint64_t length = 0;
  for (size_t i = kSafetensorsPrefixBytes; i-- > 0;) {
    length = length << 8 | static_cast<unsigned char>(prefix[i]);
  }
  if (length > kMaxSafetensorsHeaderBytes) {
    return Damaged(file, absl::StrCat("the header's length is ", length, ", more than the ",
                                      kMaxSafetensorsHeaderBytes, " bytes allowed"));
  }
  if (length > file_bytes - kSafetensorsPrefixBytes) {
    return Damaged(file, absl::StrCat("the header's length is ", length, ", but the file has ",
                                      file_bytes, " bytes"));
  }
  return length;
}

absl::StatusOr<TensorMap> ParseSafetensorsHeader(absl::string_view file, absl::string_view header,
                                                 uint64_t file_bytes) {
  if (file_bytes < kSafetensorsPrefixBytes ||
      header.size() > file_bytes - kSafetensorsPrefixBytes) {
    return Damaged(file, absl::StrCat("the header of ", header.size(), " bytes does not fit into ",
                                      file_bytes, " bytes"));
  }
  if (header.empty() || header[0] != '{') {
    return Damaged(file, "the header does not begin with '{'");
  }
  // The JSON parser would take a NUL byte for the end and never see what comes behind it.
  if (const size_t nul = header.find('\0'); nul != absl::string_view::npos) {
    return Damaged(file, absl::StrCat("the header holds a NUL byte at ", nul));
  }
  HeaderHandler handler(file, kSafetensorsPrefixBytes + header.size(), file_bytes);
  bool parsed = false;
  try {
    parsed = Json::sax_parse(header.data(), header.data() + header.size(), &handler);
  } catch (const std::exception& error) {
    return Damaged(file, absl::StrCat("the header cannot be read: ", error.what()));
  }
  ENGRAM_RETURN_IF_ERROR(handler.status());
  if (!parsed) return Damaged(file, "the header is not JSON");
  TensorMap tensors = handler.TakeTensors();
  ENGRAM_RETURN_IF_ERROR(CheckOverlaps(file, tensors));
  return tensors;
}

}  // namespace engram
