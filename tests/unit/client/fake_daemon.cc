#include "tests/unit/client/fake_daemon.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "engram/v1/admin.grpc.pb.h"
#include "engram/v1/store.grpc.pb.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"
#include "storage/table/ngram_hasher.h"
#include "tests/unit/storage/table/model_specs.h"

namespace engram::testing {
namespace {

constexpr uint32_t kDeadPosition = 0xFFFFFFFFu;

// Byte `index` of a row; zero rows are zeros.
uint8_t RowByte(int32_t layer, uint32_t id, size_t index) {
  if (id == kDeadPosition) return 0;
  return static_cast<uint8_t>(static_cast<uint32_t>(layer) * 31 + id * 7 + index + 1);
}

grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

void FillLayer(const v1::LayerRowIds& asked, bool want_tiers, v1::LayerRows* layer) {
  std::vector<uint32_t> ids(asked.row_ids().size() / 4);
  std::memcpy(ids.data(), asked.row_ids().data(), asked.row_ids().size());
  layer->set_layer(asked.layer());
  layer->set_row_bytes(static_cast<uint32_t>(RowBytes(asked.layer(), 0).size()));
  uint64_t served = 0;
  for (const uint32_t id : ids) {
    layer->mutable_rows()->append(RowBytes(asked.layer(), id));
    if (want_tiers) layer->mutable_tiers()->push_back(id == kDeadPosition ? '\xFF' : '\x01');
    if (id != kDeadPosition) ++served;
  }
  layer->mutable_served()->set_dram(served);
}

std::vector<int32_t> Ids(const std::string& bytes) {
  std::vector<int32_t> ids(bytes.size() / 4);
  std::memcpy(ids.data(), bytes.data(), bytes.size());
  return ids;
}

// The plain way: every sequence on its own, every layer anew.
absl::Status HashTokens(const v1::LookupRequest& request,
                        google::protobuf::RepeatedPtrField<v1::LayerRowIds>* layers) {
  const v1::TokenBatch& tokens = request.tokens();
  if (request.table() == "t") return absl::FailedPreconditionError("\"t\" has no hash");
  std::vector<int32_t> ids = Ids(tokens.token_ids());
  if (!tokens.compressed()) {
    if (request.table() == "m") return absl::FailedPreconditionError("\"m\" has no token map");
    ENGRAM_RETURN_IF_ERROR(HashedMap().Compress(ids, absl::MakeSpan(ids)));
  }
  for (const int32_t id : tokens.layers()) {
    const LayerSpec* layer = HashedSpec().FindLayer(LayerId{id});
    if (layer == nullptr) return absl::NotFoundError("no layer " + std::to_string(id));
    ENGRAM_ASSIGN_OR_RETURN(const NgramHasher hasher,
                            NgramHasher::Create(HashedSpec().addressing, *layer));
    ENGRAM_RETURN_IF_ERROR(hasher.Check(ids));
    v1::LayerRowIds* rows = layers->Add();
    rows->set_layer(id);
    size_t begin = 0;
    for (int i = 0; i < std::max(tokens.lengths_size(), 1); ++i) {
      TokenSpan span{absl::MakeConstSpan(ids).subspan(begin)};
      if (tokens.lengths_size() > 0) span.ids = span.ids.first(tokens.lengths(i));
      if (tokens.lookbacks_size() > 0) span.lookback = tokens.lookbacks(i);
      std::vector<RowId> hashed(span.positions() * hasher.columns());
      hasher.HashPlain(span, absl::MakeSpan(hashed));
      rows->mutable_row_ids()->append(reinterpret_cast<const char*>(hashed.data()),
                                      hashed.size() * 4);
      begin += span.ids.size();
    }
  }
  return absl::OkStatus();
}

}  // namespace

const TableSpec& HashedSpec() {
  static const TableSpec* const spec = [] {
    Model model = DeepseekV41(300, 2);
    auto* made = new TableSpec;
    made->family = "deepseek-v4.1";
    made->addressing = model.addressing;
    made->addressing.compressed_vocab_size = 5;
    made->addressing.vocab_size = 10;
    made->layers = std::move(model.layers);
    made->layers[1].row_bytes = 6;
    made->layers[1].row_scale = 0.25;
    return made;
  }();
  return *spec;
}

const TokenMap& HashedMap() {
  static const auto* const map = new TokenMap(*TokenMap::Create({0, 0, 1, 1, 2, 2, 3, 3, 4, 4}));
  return *map;
}

std::string RowBytes(int32_t layer, uint32_t id) {
  std::string row(layer == 1 ? 8 : layer == 14 ? 6 : 0, '\0');
  for (size_t i = 0; i < row.size(); ++i) row[i] = static_cast<char>(RowByte(layer, id, i));
  return row;
}

absl::Status AnswerLookup(const v1::LookupRequest& request, v1::LookupResponse* response) {
  if (request.table() != "t" && request.table() != "h" && request.table() != "m") {
    return absl::NotFoundError("no table \"" + request.table() + "\"");
  }
  if (!request.expect_table_digest().empty() && request.expect_table_digest() != "d0") {
    return absl::FailedPreconditionError("another table");
  }
  response->set_version(request.table() == "t" ? 3 : 5);
  auto layers = request.ids().layers();
  if (request.has_tokens()) ENGRAM_RETURN_IF_ERROR(HashTokens(request, &layers));
  for (const v1::LayerRowIds& asked : layers) {
    FillLayer(asked, request.want_tiers(), response->add_layers());
  }
  return absl::OkStatus();
}

namespace {

v1::TableInfo HashedTable(const std::string& name) {
  const TableSpec& spec = HashedSpec();
  v1::TableInfo table;
  table.set_name(name);
  table.set_version(5);
  table.set_active(true);
  table.set_state(v1::TABLE_STATE_PUBLISHED);
  table.set_family(spec.family);
  table.set_table_digest("d0");
  table.set_rows(spec.rows());
  table.set_bytes(spec.bytes());
  v1::Addressing* addressing = table.mutable_addressing();
  addressing->set_max_ngram_size(spec.addressing.max_ngram_size);
  addressing->set_heads(spec.addressing.heads);
  addressing->set_base_size(spec.addressing.base_size);
  addressing->set_pad_id(spec.addressing.pad_id);
  addressing->set_compressed_vocab_size(spec.addressing.compressed_vocab_size);
  addressing->set_hash(v1::HASH_KIND_XOR_MULTIPLY);
  addressing->set_vocab_size(spec.addressing.vocab_size);
  addressing->set_boundary_id(spec.addressing.boundary_id);
  for (const LayerSpec& from : spec.layers) {
    v1::LayerInfo* layer = table.add_layers();
    layer->set_layer(Raw(from.id));
    layer->set_rows(from.rows);
    layer->set_row_bytes(from.row_bytes);
    layer->set_row_scale(from.row_scale);
    for (const int64_t multiplier : from.multipliers) layer->add_multipliers(multiplier);
    for (const ColumnSpec& from_column : from.columns) {
      v1::Column* column = layer->add_columns();
      column->set_order(from_column.order);
      column->set_head(from_column.head);
      column->set_rows(from_column.rows);
    }
  }
  if (name != "h") return table;
  table.set_token_map_size(HashedMap().size());
  table.set_token_map_digest(HashedMap().digest());
  return table;
}

v1::TableInfo FakeTable() {
  v1::TableInfo table;
  table.set_name("t");
  table.set_version(3);
  table.set_active(true);
  table.set_state(v1::TABLE_STATE_PUBLISHED);
  table.set_family("engram-demo");
  table.set_row_format("u8[8]");
  table.set_checkpoint_digest("c0");
  table.set_table_digest("d0");
  table.set_rows(300);
  table.set_bytes(2000);
  table.mutable_addressing()->set_max_ngram_size(3);
  table.mutable_addressing()->set_heads(2);
  table.mutable_addressing()->set_base_size(40);
  v1::LayerInfo* first = table.add_layers();
  first->set_layer(1);
  first->set_rows(100);
  first->set_row_bytes(8);
  first->set_rows_per_page(480);
  first->set_block_bytes(4096);
  first->set_disk_bytes(5000);
  v1::Column* column = first->add_columns();
  column->set_order(2);
  column->set_head(1);
  column->set_rows(100);
  v1::LayerInfo* second = table.add_layers();
  second->set_layer(14);
  second->set_rows(200);
  second->set_row_bytes(6);
  return table;
}

class FakeStore : public v1::EngramStore::Service {
 public:
  explicit FakeStore(FakeDaemon& daemon) : daemon_(daemon) {}

  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeRequest* request,
                        v1::DescribeResponse* response) override;
  grpc::Status Lookup(grpc::ServerContext* context, const v1::LookupRequest* request,
                      v1::LookupResponse* response) override;
  grpc::Status StreamLookup(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::StreamLookupResponse, v1::LookupRequest>* stream) override;
  grpc::Status Prefetch(grpc::ServerContext* context, const v1::PrefetchRequest* request,
                        v1::PrefetchResponse* response) override;

  v1::PrefetchRequest LastPrefetch();

 private:
  FakeDaemon& daemon_;
  Mutex mutex_;
  v1::PrefetchRequest last_prefetch_ ABSL_GUARDED_BY(mutex_);
};

class FakeAdmin : public v1::EngramAdmin::Service {
 public:
  void WaitForHang();
  void WaitForCancelled();
  v1::LoadRequest LastLoad();
  v1::VerifyRequest LastVerify();
  v1::DropTableRequest LastDropTable();
  v1::DropVersionRequest LastDropVersion();

  grpc::Status Load(grpc::ServerContext*, const v1::LoadRequest*,
                    grpc::ServerWriter<v1::LoadProgress>*) override;
  grpc::Status List(grpc::ServerContext*, const v1::ListRequest*, v1::ListResponse*) override;
  grpc::Status Activate(grpc::ServerContext*, const v1::ActivateRequest*,
                        v1::ActivateResponse*) override;
  grpc::Status DropTable(grpc::ServerContext*, const v1::DropTableRequest*,
                         v1::DropTableResponse*) override;
  grpc::Status DropVersion(grpc::ServerContext*, const v1::DropVersionRequest*,
                           v1::DropVersionResponse*) override;
  grpc::Status Verify(grpc::ServerContext*, const v1::VerifyRequest*,
                      grpc::ServerWriter<v1::VerifyProgress>*) override;
  grpc::Status Stats(grpc::ServerContext*, const v1::StatsRequest*, v1::StatsResponse*) override;
  grpc::Status SetDramBudget(grpc::ServerContext*, const v1::SetDramBudgetRequest*,
                             v1::SetDramBudgetResponse*) override;

 private:
  grpc::Status Hang(grpc::ServerContext* context);

  Mutex mutex_;
  CondVar changed_;
  bool hanging_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  v1::LoadRequest last_load_ ABSL_GUARDED_BY(mutex_);
  v1::VerifyRequest last_verify_ ABSL_GUARDED_BY(mutex_);
  v1::DropTableRequest last_drop_table_ ABSL_GUARDED_BY(mutex_);
  v1::DropVersionRequest last_drop_version_ ABSL_GUARDED_BY(mutex_);
};

grpc::Status FakeStore::Describe(grpc::ServerContext*, const v1::DescribeRequest* request,
                                 v1::DescribeResponse* response) {
  if (request->table() == "t") {
    *response->mutable_table() = FakeTable();
  } else if (request->table() == "h" || request->table() == "m") {
    *response->mutable_table() = HashedTable(request->table());
    if (request->want_token_map() && request->table() == "h") {
      response->set_token_map(std::string(HashedMap().bytes()));
    }
  } else {
    return {grpc::StatusCode::NOT_FOUND, "no table \"" + request->table() + "\""};
  }
  if (daemon_.on_describe) daemon_.on_describe(response);
  return grpc::Status::OK;
}

grpc::Status FakeStore::Lookup(grpc::ServerContext* context, const v1::LookupRequest* request,
                               v1::LookupResponse* response) {
  ++daemon_.lookups;
  if (!daemon_.on_lookup) return ToGrpc(AnswerLookup(*request, response));
  return ToGrpc(
      daemon_.on_lookup([context] { return context->IsCancelled(); }, *request, response));
}

grpc::Status FakeStore::StreamLookup(
    grpc::ServerContext*,
    grpc::ServerReaderWriter<v1::StreamLookupResponse, v1::LookupRequest>* stream) {
  v1::LookupRequest request;
  while (stream->Read(&request)) {
    v1::LookupResponse answer;
    const grpc::Status status = ToGrpc(AnswerLookup(request, &answer));
    const int messages = status.ok() ? answer.layers_size() : 1;
    for (int i = 0; i < messages; ++i) {
      v1::StreamLookupResponse message;
      message.set_request_id(request.request_id());
      message.set_code(status.error_code());
      message.set_message(status.error_message());
      message.set_last(i + 1 == messages);
      message.set_version(answer.version());
      if (status.ok()) message.mutable_layer()->Swap(answer.mutable_layers(i));
      if (daemon_.on_stream_answer) daemon_.on_stream_answer(&message);
      if (!stream->Write(message)) return grpc::Status::OK;
    }
  }
  return grpc::Status::OK;
}

grpc::Status FakeStore::Prefetch(grpc::ServerContext*, const v1::PrefetchRequest* request,
                                 v1::PrefetchResponse* response) {
  {
    MutexLock lock(mutex_);
    last_prefetch_ = *request;
  }
  uint64_t ids = request->tokens().token_ids().size() / 4;
  for (const v1::LayerRowIds& layer : request->ids().layers()) ids += layer.row_ids().size() / 4;
  response->set_accepted(ids);
  response->set_skipped(1);
  return grpc::Status::OK;
}

v1::PrefetchRequest FakeStore::LastPrefetch() {
  MutexLock lock(mutex_);
  return last_prefetch_;
}

void FakeAdmin::WaitForHang() {
  MutexLock lock(mutex_);
  while (!hanging_) changed_.Wait(mutex_);
}

void FakeAdmin::WaitForCancelled() {
  MutexLock lock(mutex_);
  while (!cancelled_) changed_.Wait(mutex_);
}

v1::LoadRequest FakeAdmin::LastLoad() {
  MutexLock lock(mutex_);
  return last_load_;
}

v1::VerifyRequest FakeAdmin::LastVerify() {
  MutexLock lock(mutex_);
  return last_verify_;
}

v1::DropTableRequest FakeAdmin::LastDropTable() {
  MutexLock lock(mutex_);
  return last_drop_table_;
}

v1::DropVersionRequest FakeAdmin::LastDropVersion() {
  MutexLock lock(mutex_);
  return last_drop_version_;
}

grpc::Status FakeAdmin::Hang(grpc::ServerContext* context) {
  MutexLock lock(mutex_);
  hanging_ = true;
  changed_.NotifyAll();
  while (!context->IsCancelled()) changed_.WaitFor(mutex_, std::chrono::milliseconds(10));
  cancelled_ = true;
  changed_.NotifyAll();
  return {grpc::StatusCode::CANCELLED, "cancelled"};
}

grpc::Status FakeAdmin::Load(grpc::ServerContext* context, const v1::LoadRequest* request,
                             grpc::ServerWriter<v1::LoadProgress>* writer) {
  {
    MutexLock lock(mutex_);
    last_load_ = *request;
  }
  if (request->table() == "refused") return {grpc::StatusCode::INVALID_ARGUMENT, "no\nsuch thing"};
  v1::LoadProgress progress;
  progress.set_rows_total(300);
  progress.set_bytes_total(2000);
  progress.set_rows_done(150);
  progress.set_bytes_done(1000);
  progress.set_phase(v1::LOAD_PHASE_READ);
  writer->Write(progress);
  if (request->table() == "hang") return Hang(context);
  progress.set_rows_done(300);
  progress.set_bytes_done(2000);
  progress.set_rows_resumed(30);
  progress.set_done(request->table() != "undone");
  progress.set_already_loaded(request->table() == "again");
  *progress.mutable_table() = FakeTable();
  progress.mutable_table()->set_name(request->table());
  progress.mutable_table()->set_active(request->version() == 0);
  if (request->repair()) {
    progress.mutable_repair()->set_chunks(8);
    if (request->table() == "damaged") {
      progress.mutable_repair()->set_damaged_chunks(2);
      progress.mutable_repair()->set_damaged_rows(16);
      progress.mutable_repair()->set_rewritten_chunks(2);
      progress.mutable_repair()->set_rewritten_rows(70);
      progress.mutable_repair()->add_problems("layer 1 row 5: a bad page");
    }
  }
  writer->Write(progress);
  return grpc::Status::OK;
}

grpc::Status FakeAdmin::List(grpc::ServerContext*, const v1::ListRequest*,
                             v1::ListResponse* response) {
  *response->add_tables() = FakeTable();
  v1::TableInfo& unfinished = *response->add_unfinished();
  unfinished = FakeTable();
  unfinished.set_version(4);
  unfinished.set_active(false);
  unfinished.set_state(v1::TABLE_STATE_LOADING);
  return grpc::Status::OK;
}

grpc::Status FakeAdmin::Activate(grpc::ServerContext*, const v1::ActivateRequest* request,
                                 v1::ActivateResponse*) {
  if (request->version() == 3) return grpc::Status::OK;
  return {grpc::StatusCode::NOT_FOUND, "no version " + std::to_string(request->version())};
}

grpc::Status FakeAdmin::DropTable(grpc::ServerContext*, const v1::DropTableRequest* request,
                                  v1::DropTableResponse* response) {
  MutexLock lock(mutex_);
  last_drop_table_ = *request;
  response->add_versions(2);
  response->add_versions(3);
  return grpc::Status::OK;
}

grpc::Status FakeAdmin::DropVersion(grpc::ServerContext*, const v1::DropVersionRequest* request,
                                    v1::DropVersionResponse*) {
  MutexLock lock(mutex_);
  last_drop_version_ = *request;
  return grpc::Status::OK;
}

grpc::Status FakeAdmin::Verify(grpc::ServerContext* context, const v1::VerifyRequest* request,
                               grpc::ServerWriter<v1::VerifyProgress>* writer) {
  {
    MutexLock lock(mutex_);
    last_verify_ = *request;
  }
  v1::VerifyProgress progress;
  progress.set_rows_total(300);
  progress.set_rows_done(300);
  progress.set_bytes_done(2000);
  progress.set_dram_rows(7);
  writer->Write(progress);
  if (request->table() == "hang") return Hang(context);
  if (request->table() == "bad") {
    progress.set_bad_rows(2);
    progress.add_problems("layer 1 row 5 differs");
  }
  progress.set_done(true);
  writer->Write(progress);
  return grpc::Status::OK;
}

grpc::Status FakeAdmin::SetDramBudget(grpc::ServerContext*, const v1::SetDramBudgetRequest* request,
                                      v1::SetDramBudgetResponse* response) {
  response->set_dram_budget_bytes(request->bytes());
  response->set_before_bytes(uint64_t{1} << 40);
  response->set_used_bytes(4096);
  return grpc::Status::OK;
}

grpc::Status FakeAdmin::Stats(grpc::ServerContext*, const v1::StatsRequest*,
                              v1::StatsResponse* response) {
  response->set_daemon_version("9.9");
  v1::TableStats* table = response->add_tables();
  table->set_name("t");
  table->set_version(3);
  table->set_lookups(5);
  table->set_lookup_p50_seconds(0.000125);
  table->set_failed_rows(10);
  table->set_prefetched_rows(40);
  table->set_prefetched_used_rows(21);
  table->set_prefetched_unused_rows(7);
  table->set_prefetched_late_rows(4);
  v1::TierStats* sum = table->mutable_tiers()->mutable_dram();
  sum->set_hits(60);
  sum->set_rows(8);
  sum->set_hit_ratio(0.6);  // of 60 and 30 served, and 10 failed
  table->mutable_tiers()->mutable_hbm();
  for (const int layer : {1, 14}) {
    v1::LayerStats* stats = table->add_layers();
    stats->set_layer(layer);
    v1::Tiers* tiers = stats->mutable_tiers();
    tiers->mutable_hbm()->set_note("no CUDA device");
    tiers->mutable_dram()->set_on(true);
    tiers->mutable_dram()->set_hits(30);
    tiers->mutable_dram()->set_rows(4);
    tiers->mutable_nvme()->set_on(true);
    tiers->mutable_nvme()->set_hits(15);
  }
  return grpc::Status::OK;
}

}  // namespace

struct FakeDaemon::Impl {
  Impl(FakeDaemon& daemon, Admin served) : store(daemon), serve_admin(served == Admin::kServed) {}

  FakeStore store;
  FakeAdmin admin;
  const bool serve_admin;
  std::string directory;
  std::string target;
  std::unique_ptr<grpc::Server> server;
};

FakeDaemon::FakeDaemon(Admin admin) : impl_(std::make_unique<Impl>(*this, admin)) {
  impl_->directory = ::testing::TempDir() + "engram_client_XXXXXX";
  if (::mkdtemp(impl_->directory.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  impl_->target = "unix:" + impl_->directory + "/s";
  Start();
}

FakeDaemon::~FakeDaemon() {
  Stop();
  std::filesystem::remove_all(impl_->directory);
}

const std::string& FakeDaemon::target() const { return impl_->target; }

void FakeDaemon::Start() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(impl_->target, grpc::InsecureServerCredentials());
  builder.RegisterService(&impl_->store);
  if (impl_->serve_admin) builder.RegisterService(&impl_->admin);
  impl_->server = builder.BuildAndStart();
  if (impl_->server == nullptr) throw std::runtime_error("cannot listen at " + impl_->target);
}

void FakeDaemon::Stop() {
  if (impl_->server == nullptr) return;
  impl_->server->Shutdown(std::chrono::system_clock::now());
  impl_->server->Wait();
  impl_->server = nullptr;
}

void FakeDaemon::WaitForHang() { impl_->admin.WaitForHang(); }
void FakeDaemon::WaitForCancelled() { impl_->admin.WaitForCancelled(); }
v1::LoadRequest FakeDaemon::LastLoad() { return impl_->admin.LastLoad(); }
v1::VerifyRequest FakeDaemon::LastVerify() { return impl_->admin.LastVerify(); }
v1::PrefetchRequest FakeDaemon::LastPrefetch() { return impl_->store.LastPrefetch(); }
v1::DropTableRequest FakeDaemon::LastDropTable() { return impl_->admin.LastDropTable(); }
v1::DropVersionRequest FakeDaemon::LastDropVersion() { return impl_->admin.LastDropVersion(); }

}  // namespace engram::testing
